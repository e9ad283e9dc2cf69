"""A process of a run that leaves while its last collective ends: torchrun --nproc-per-node 2 late_collective.py."""

import atexit
import sys
import time

import dinov2_detrex  # noqa: F401  makes detectron2 importable for what follows

# isort: split
import torch
import torch.distributed as dist
from detectron2.utils import comm

from dinov2_detrex.training.distributed import Processes, launch


def main() -> int:
    tensor, group = torch.ones(3), comm.get_local_process_group()
    if comm.get_rank() == 1:
        time.sleep(1)  # so that the collective ends when rank 0 has left
        dist.all_reduce(tensor, group=group)
    else:
        dist.all_reduce(tensor, group=group, async_op=True)
    atexit.register(leave_late)
    return 0


def leave_late() -> None:
    """Keep Python's lock for 3 seconds, after the process groups have been destroyed."""
    print("exit handlers ran", flush=True)
    sys.setswitchinterval(1000)  # seconds
    leave = time.monotonic() + 3
    while time.monotonic() < leave:
        pass


if __name__ == "__main__":
    sys.exit(launch(main, (), Processes(), use_cuda=False))
