"""How the processes of a run come to be: one, several started here, or started by torchrun; and how they end.

When one process of a run dies, the others are ended instead of waiting for it forever.
"""

import datetime
import os
import signal
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from detectron2.utils import comm
from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException, start_processes

from dinov2_detrex.runtime.errors import UsageError, UserError
from dinov2_detrex.runtime.processes import end_process, under_torchrun

TIMEOUT = datetime.timedelta(minutes=30)


@dataclass(frozen=True)
class Processes:
    """Which processes a run has: `per_machine` on each of `machines`, meeting at `url`."""

    per_machine: int = 1
    machines: int = 1
    machine_rank: int = 0
    url: str = "auto"

    @property
    def total(self) -> int:
        return self.per_machine * self.machines


def processes_of_torchrun() -> Processes:
    """What torchrun started; its own variables say so."""
    per_machine = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return Processes(per_machine, max(1, int(os.environ["WORLD_SIZE"]) // per_machine), url="tcp://")


def check_processes(processes: Processes, device_type: str) -> None:
    """Refuse what cannot be started, before anything is.

    Raises:
        UsageError: more processes than GPUs, CPU processes that were not asked for, or no meeting point.
    """
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if processes.per_machine < 1 or processes.machines < 1:
        raise UsageError("--num-gpus and --num-machines must be at least 1")
    if not 0 <= processes.machine_rank < processes.machines:
        raise UsageError(
            f"--machine-rank {processes.machine_rank} must be in 0..{processes.machines - 1} (--num-machines)"
        )
    if device_type == "cuda" and processes.per_machine > gpus:
        raise UsageError(
            f"--num-gpus {processes.per_machine} (--nproc-per-node of torchrun), but this machine has {gpus}; "
            "lower it, or set train.device=cpu to run that many CPU processes"
        )
    if processes.machines > 1 and not processes.url.startswith("tcp://"):
        raise UsageError("--num-machines > 1 needs --dist-url tcp://HOST:PORT, an address of machine 0")


def launch(
    main: Callable[..., int],
    args: tuple,
    processes: Processes,
    use_cuda: bool,
    afterwards: Callable[[], None] | None = None,
) -> int:
    """Run `main(*args)` in every process of the run and return its exit status, of the first that failed if any did.

    In a process that torchrun started this ends the process, with that status.

    Args:
        main: gives an exit status.
        args: of `main`.
        processes: of the run.
        use_cuda: whether each has a GPU.
        afterwards: called once on the first machine when all has ended well, outside of the process group.

    Raises:
        UserError: a process ended without a message of its own, e.g. killed by a signal.
    """
    if under_torchrun():
        local_rank, started = int(os.environ["LOCAL_RANK"]), processes_of_torchrun()
        with _process_group(local_rank, started.per_machine, use_cuda, init_method="env://"):
            status = main(*args)
        if afterwards and not status and os.environ.get("RANK", "0") == "0":
            afterwards()
        end_process(status)
    status = main(*args) if processes.total == 1 else _start(main, args, processes, use_cuda)
    if afterwards and not status and processes.machine_rank == 0:
        afterwards()
    return status


def _start(main: Callable[..., int], args: tuple, processes: Processes, use_cuda: bool) -> int:
    """Start this machine's processes, and wait for their end."""
    url = processes.url if processes.machines > 1 or processes.url != "auto" else f"tcp://127.0.0.1:{_free_port()}"
    method = _start_method(use_cuda)
    messages = mp.get_context(method).SimpleQueue()
    context = start_processes(
        _child,
        (main, args, processes, url, use_cuda, messages),
        processes.per_machine,
        join=False,
        start_method=method,
    )
    return _wait(context, messages)


def _start_method(use_cuda: bool) -> str:
    """CUDA does not survive a fork; without it a fork is there at once, with everything imported."""
    return "fork" if sys.platform == "linux" and not use_cuda else "spawn"


def _child(local_rank: int, main, args, processes: Processes, url: str, use_cuda: bool, messages) -> None:
    rank = processes.machine_rank * processes.per_machine + local_rank
    if not use_cuda and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // processes.per_machine))  # they share the cores
    try:
        with _process_group(
            local_rank, processes.per_machine, use_cuda, init_method=url, rank=rank, world_size=processes.total
        ):
            status = main(*args)
    except UserError as error:
        messages.put((error.exit_status, str(error)))
        status = error.exit_status
    if _start_method(use_cuda) == "spawn":  # a forked child ends in this way by itself
        end_process(status)
    if status:
        sys.exit(status)


def _wait(context, messages) -> int:
    """Join the children; the first one to fail has the others ended."""
    try:
        while not context.join():
            pass
    except (ProcessExitedException, ProcessRaisedException) as error:
        for rank, process in enumerate(context.processes):
            if (
                -(process.exitcode or 0) > 0 and -process.exitcode != signal.SIGTERM
            ):  # which is how the others are ended
                name = signal.Signals(-process.exitcode).name
                raise UserError(f"process {rank} of the run was killed by {name}; the others were ended") from None
        if not messages.empty():  # the others may have failed of its end, and louder
            status, message = messages.get()
            failure = UserError(message)
            failure.exit_status = status
            raise failure from None
        if isinstance(error, ProcessRaisedException):
            raise
        cause = f"was ended by {error.signal_name}" if error.signal_name else f"ended with status {error.exit_code}"
        raise UserError(f"process {error.error_index} of the run {cause}; the others were ended") from None
    return 0


class _process_group:
    """The default process group and detectron2's per-machine one, and their end."""

    def __init__(self, local_rank: int, per_machine: int, use_cuda: bool, **init):
        self.local_rank, self.per_machine, self.use_cuda, self.init = local_rank, per_machine, use_cuda, init

    def __enter__(self):
        if self.use_cuda:
            torch.cuda.set_device(self.local_rank)
        dist.init_process_group("nccl" if self.use_cuda else "gloo", timeout=TIMEOUT, **self.init)
        comm.create_local_process_group(self.per_machine)
        comm.synchronize()

    def __exit__(self, kind, error, traceback):
        if kind is None:  # after a failure the others may be gone, and a tidy end would wait for them
            dist.destroy_process_group()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
