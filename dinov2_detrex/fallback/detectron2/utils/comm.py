"""Which process is this, among how many, and how do they exchange objects? Alone, every answer is the trivial one.

Objects travel over a gloo group on the CPU, so they may be anything that pickles.
"""

import functools
from typing import Any, cast

import numpy as np
import torch
import torch.distributed as dist

_local_group: dist.ProcessGroup | None = None  # the processes of this machine; set by create_local_process_group


def _is_distributed() -> bool:
    return dist.is_available() and dist.is_initialized()


def get_world_size() -> int:
    return dist.get_world_size() if _is_distributed() else 1


def get_rank() -> int:
    return dist.get_rank() if _is_distributed() else 0


def create_local_process_group(num_workers_per_machine: int) -> None:
    """Tell the processes which of them share a machine: consecutive ranks. Call it once in every process.

    Raises:
        AssertionError: called twice, or the world is not a multiple of `num_workers_per_machine`.
    """
    global _local_group
    assert _local_group is None, "the local process group exists already"
    world = get_world_size()
    assert world % num_workers_per_machine == 0, f"{world} processes are not {num_workers_per_machine} per machine"
    machine = get_rank() // num_workers_per_machine
    for i in range(world // num_workers_per_machine):
        ranks = list(range(i * num_workers_per_machine, (i + 1) * num_workers_per_machine))
        group = dist.new_group(ranks)  # a collective: every process creates every group
        if i == machine:
            _local_group = cast(dist.ProcessGroup, group)  # this process is a member


def get_local_process_group() -> dist.ProcessGroup:
    assert _local_group is not None, "no local process group: use launch() or create_local_process_group(n)"
    return _local_group


def get_local_rank() -> int:
    """Rank within this machine."""
    return dist.get_rank(group=get_local_process_group()) if _is_distributed() else 0


def get_local_size() -> int:
    """Number of processes on this machine."""
    return dist.get_world_size(group=get_local_process_group()) if _is_distributed() else 1


def is_main_process() -> bool:
    return get_rank() == 0


def synchronize() -> None:
    """Wait until every process is here."""
    if get_world_size() == 1:
        return
    if dist.get_backend() == dist.Backend.NCCL:
        dist.barrier(device_ids=[torch.cuda.current_device()])
    else:
        dist.barrier()


@functools.cache
def _cpu_group() -> dist.ProcessGroup:
    """A gloo group of all processes; made once, by all of them together."""
    group = dist.new_group(backend="gloo") if dist.get_backend() == dist.Backend.NCCL else dist.group.WORLD
    return cast(dist.ProcessGroup, group)  # every process is a member


def all_gather(data: Any, group: dist.ProcessGroup | None = None) -> list[Any]:
    """Every process's `data`, in order of rank, on every process."""
    if get_world_size() == 1:
        return [data]
    group = group or _cpu_group()
    gathered = [None] * dist.get_world_size(group)
    dist.all_gather_object(gathered, data, group=group)
    return gathered


def gather(data: Any, dst: int = 0, group: dist.ProcessGroup | None = None) -> list[Any]:
    """Every process's `data`, in order of rank, on process `dst`; [] elsewhere."""
    if get_world_size() == 1:
        return [data]
    group = group or _cpu_group()
    gathered = [None] * dist.get_world_size(group) if get_rank() == dst else None
    dist.gather_object(data, gathered, dst=dst, group=group)
    return gathered or []


def shared_random_seed() -> int:
    """A number below 2^31, the same on every process, drawn from numpy's global generator of rank 0."""
    return all_gather(int(np.random.randint(2**31)))[0]


def reduce_dict(input_dict: dict[str, torch.Tensor], average: bool = True) -> dict[str, torch.Tensor]:
    """Sum or average scalars over the processes; the result is meant for rank 0.

    Args:
        input_dict: scalar tensors of one dtype and device, the same keys on every process.
    """
    world = get_world_size()
    if world == 1:
        return input_dict
    with torch.no_grad():
        names = sorted(input_dict)
        values = torch.stack([input_dict[name] for name in names])
        dist.reduce(values, dst=0)
        return dict(zip(names, values / world if average else values))
