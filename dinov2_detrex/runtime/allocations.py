"""How much memory do tensors take at most while something runs? As torch's own allocators count it."""

import itertools
from collections.abc import Callable
from typing import Any

import torch


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
