"""How does one program become several processes, one per GPU (or per worker on a CPU)?"""

import socket
from collections.abc import Callable
from datetime import timedelta

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from ..utils import comm

__all__ = ["DEFAULT_TIMEOUT", "launch"]

DEFAULT_TIMEOUT = timedelta(minutes=30)


def launch(
    main_func: Callable,
    num_gpus_per_machine: int,
    num_machines: int = 1,
    machine_rank: int = 0,
    dist_url: str | None = None,
    args: tuple = (),
    timeout: timedelta = DEFAULT_TIMEOUT,
) -> None:
    """Call `main_func(*args)` in machines x GPUs processes: NCCL where CUDA is available, gloo elsewhere.

    Args:
        main_func: importable by name, as the processes are spawned.
        num_gpus_per_machine: processes on this machine; with one process in all, the call is made right here.
        dist_url: where the processes meet, the same on all machines; "auto" takes a free port of this one.
        timeout: for collective operations.

    When one process fails or is killed, the others of this machine are ended and the exception is raised here.

    Raises:
        AssertionError: more GPUs than present, or "auto" with several machines.
        ValueError: several processes without a `dist_url`.
    """
    world_size = num_machines * num_gpus_per_machine
    if world_size <= 1:
        main_func(*args)
        return
    if torch.cuda.is_available():
        present = torch.cuda.device_count()
        assert num_gpus_per_machine <= present, f"asked for {num_gpus_per_machine} GPUs, this machine has {present}"
    mp.start_processes(
        _run_worker,
        nprocs=num_gpus_per_machine,
        args=(
            main_func,
            world_size,
            num_gpus_per_machine,
            machine_rank,
            _meeting_point(dist_url, num_machines),
            args,
            timeout,
        ),
        daemon=False,
        start_method="spawn",
    )


def _meeting_point(dist_url: str | None, num_machines: int) -> str:
    if dist_url is None:
        raise ValueError("several processes need a dist_url to meet, e.g. 'auto' or tcp://127.0.0.1:29500")
    if dist_url == "auto":
        assert num_machines == 1, "dist_url='auto' works on a single machine; give tcp://HOST:PORT"
        return f"tcp://127.0.0.1:{_free_port()}"
    return dist_url


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _run_worker(
    local_rank: int,
    main_func: Callable,
    world_size: int,
    num_gpus_per_machine: int,
    machine_rank: int,
    dist_url: str,
    args: tuple,
    timeout: timedelta,
) -> None:
    has_cuda = torch.cuda.is_available()
    if has_cuda:
        torch.cuda.set_device(local_rank)
    dist.init_process_group(
        backend="NCCL" if has_cuda else "GLOO",
        init_method=dist_url,
        world_size=world_size,
        rank=machine_rank * num_gpus_per_machine + local_rank,
        timeout=timeout,
    )
    comm.create_local_process_group(num_gpus_per_machine)
    comm.synchronize()
    main_func(*args)
    dist.destroy_process_group()
