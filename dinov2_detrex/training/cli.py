"""What the command `train` does: the config with its overrides, the processes, and a run in each of them."""

import argparse
import functools
from collections.abc import Callable

from dinov2_detrex.config.loading import load
from dinov2_detrex.runtime.devices import choose_device
from dinov2_detrex.runtime.openmp import yield_when_busy
from dinov2_detrex.runtime.processes import under_torchrun
from dinov2_detrex.training.batch_size import settle_batch
from dinov2_detrex.training.distributed import Processes, check_processes, launch, processes_of_torchrun
from dinov2_detrex.training.run import run


def train(args: argparse.Namespace, afterwards: Callable[[str], None] | None = None) -> int:
    """Start the processes that `dinov2_detrex.commands.train` was asked for; the exit status of the run.

    Args:
        args: the command's.
        afterwards: called with the output folder once the run has ended well, in one process.

    Raises:
        UserError: for everything that its user can put right.
    """
    processes = Processes(args.num_gpus, args.num_machines, args.machine_rank, args.dist_url)
    total = processes_of_torchrun().total if under_torchrun() else max(processes.total, 1)
    args.overrides = settle_batch(args.config_file, args.overrides, total, args.resume)
    cfg = load(args.config_file, args.overrides)
    device_type = choose_device(cfg.train.device).type
    if under_torchrun():
        check_processes(processes_of_torchrun(), device_type)
    elif processes.total > 1:
        check_processes(processes, _asked_device(cfg.train.device))
    # the children load the config themselves: a config may hold functions that do not pickle
    arguments = (args.config_file, args.overrides, args.resume, args.eval_only)
    then = None if afterwards is None else functools.partial(afterwards, cfg.train.output_dir)
    return launch(run_from_command_line, arguments, processes, device_type == "cuda", then)


def _asked_device(name: str | None) -> str:
    """Several processes are meant for GPUs unless the CPU is asked for."""
    return (name or "cuda").partition(":")[0]


@yield_when_busy()
def run_from_command_line(config_file: str, overrides: list[str], resume: bool, eval_only: bool) -> int:
    """`run` in one process."""
    return run(load(config_file, overrides), config_file, resume, eval_only)
