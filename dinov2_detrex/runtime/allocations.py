"""How much memory is taken at most? As torch counts it, by the sizes of tensors, or by the system for the process."""

import contextlib
import itertools
import sys
import weakref
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

BLOCK = {"cuda": 512}  # bytes; what torch's allocator rounds up to


def peak_bytes(run: Callable[[], object], device: torch.device) -> int:
    """Most that is allocated for tensors during `run` above what is held when it begins.

    On a CPU from the allocator's events, which torch's profiler records; what other libraries allocate is not in it.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        run()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        run()
    events: list[Any] = profile.profiler.kineto_results.events()  # pyright: ignore[reportOptionalMemberAccess]
    changes = [(event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]"]
    return max(itertools.accumulate((change for _, change in sorted(changes, key=lambda c: c[0])), initial=0))


def resident_peak_bytes() -> int:
    """Most that this process has had resident; 0 where the system does not tell.

    Linux keeps `ru_maxrss` when a process starts another program, so that a child of a large process has its parent's;
    `VmHWM` begins anew.
    """
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024  # "VmHWM:  123 kB"
    try:
        import resource  # not on Windows
    except ImportError:
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # bytes there, kilobytes elsewhere


class HeldBytes(TorchDispatchMode):
    """While entered, adds up the sizes of the tensors that are alive, each storage once; also of tensors without data.

    (torch's own `MemTracker` takes a snapshot of every module at every operator: minutes for a detector.)

    Args:
        device_type: of the tensors that count.

    Attributes:
        held, peak: bytes now, and at most so far.
    """

    def __init__(self, device_type: str):
        super().__init__()
        self.device_type, self.block = device_type, BLOCK.get(device_type, 1)
        self.held = self.peak = 0
        self._known = WeakIdKeyDictionary()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        output = func(*args, **(kwargs or {}))
        self.add(x for x in tree_leaves(output) if isinstance(x, Tensor))
        return output

    def add(self, tensors: Iterable[Tensor]) -> None:
        """Count tensors that are there already."""
        for tensor in tensors:
            storage = tensor.untyped_storage()
            if tensor.device.type == self.device_type and storage not in self._known:
                size = -(-storage.nbytes() // self.block) * self.block
                self._known[storage] = size
                weakref.finalize(storage, self._change, -size).atexit = False
                self._change(size)

    def _change(self, size: int) -> None:
        self.held += size
        self.peak = max(self.peak, self.held)
