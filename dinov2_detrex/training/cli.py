"""The command line of training: flags, overrides, processes, and errors as one line with an exit status."""

import argparse
import os
import sys
import traceback

from dinov2_detrex.config.loading import load
from dinov2_detrex.training.distributed import Processes, check_processes, launch, processes_of_torchrun, under_torchrun
from dinov2_detrex.training.errors import UsageError, UserError
from dinov2_detrex.training.precision import choose_device
from dinov2_detrex.training.run import run

EPILOG = """
examples:
  one process:   %(prog)s --config-file projects/dino_dinov2/configs/COCO/dino_dinov2_b_12ep.py
  eight GPUs:    %(prog)s --config-file ... --num-gpus 8
  two machines:  %(prog)s --config-file ... --num-gpus 8 --num-machines 2 --machine-rank 0 --dist-url tcp://HOST:PORT
  torchrun:      torchrun --nproc-per-node 8 tools/train_net.py --config-file ...
  overrides:     %(prog)s --config-file ... train.max_iter=100 'data.names=[a,b]' +note=mine ~optimizer.betas
"""


class _Parser(argparse.ArgumentParser):
    """Complains in one line, without the usage."""

    def error(self, message: str):
        raise UsageError(f"{message} (--help shows the flags)")


def argument_parser() -> argparse.ArgumentParser:
    """detectron2's flags; overrides may stand before, between or after them."""
    parser = _Parser(epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("--config-file", default="", metavar="FILE", help="a recipe: .py, or a run's config.yaml")
    parser.add_argument("--resume", action="store_true", help="continue from the newest checkpoint of the output dir")
    parser.add_argument("--eval-only", action="store_true", help="evaluate train.init_checkpoint, once")
    parser.add_argument("--num-gpus", type=int, default=1, metavar="N", help="processes per machine, one GPU each")
    parser.add_argument("--num-machines", type=int, default=1, metavar="N")
    parser.add_argument("--machine-rank", type=int, default=0, metavar="N", help="of this machine, from 0")
    parser.add_argument("--dist-url", default="auto", metavar="URL", help="tcp://HOST:PORT of machine 0")
    parser.add_argument("--debug", action="store_true", help="show the traceback of errors in the request as well")
    parser.add_argument("opts", nargs="*", metavar="key=value", help="changes to the config, in Hydra's grammar")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Parse the command line, train, and return the exit status; errors of the request are one line on stderr."""
    debug = "--debug" in (sys.argv if argv is None else argv)
    try:
        return _main(argument_parser().parse_intermixed_args(argv))
    except UserError as error:
        if debug:
            traceback.print_exc()
        rank = f"[rank {os.environ['RANK']}] " if under_torchrun() else ""
        print(f"{rank}error: {error}", file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt:
        print("interrupted; the same command with --resume continues from the last checkpoint", file=sys.stderr)
        return 130


def _main(args: argparse.Namespace) -> int:
    cfg = load(args.config_file, args.opts)
    device_type = choose_device(cfg.train.device).type
    processes = Processes(args.num_gpus, args.num_machines, args.machine_rank, args.dist_url)
    if under_torchrun():
        check_processes(processes_of_torchrun(), device_type)
    elif processes.total > 1:
        check_processes(processes, _asked_device(cfg.train.device))
    # the children load the config themselves: a config may hold functions that do not pickle
    arguments = (args.config_file, args.opts, args.resume, args.eval_only)
    return launch(run_from_command_line, arguments, processes, device_type == "cuda")


def _asked_device(name: str | None) -> str:
    """Several processes are meant for GPUs unless the CPU is asked for."""
    return (name or "cuda").partition(":")[0]


def run_from_command_line(config_file: str, overrides: list[str], resume: bool, eval_only: bool) -> int:
    """`run` in one process."""
    return run(load(config_file, overrides), config_file, resume, eval_only)
