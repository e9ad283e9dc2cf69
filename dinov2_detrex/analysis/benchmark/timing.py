"""How long does something take at best, and how much of a GPU's memory? CPU time on a CPU, wall time on a GPU."""

import os
import platform
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from tabulate import tabulate

from dinov2_detrex import env
from dinov2_detrex.runtime.errors import UsageError


def now(device: torch.device) -> float:
    """Seconds: of this process's CPU time, or on CUDA of the wall clock once the device has done its work.

    With one thread the CPU time is hardly changed by what else the machine does.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        return time.perf_counter()
    return time.process_time()


def best_times(runs: Mapping[str, Callable[[], object]], repeats: int, device: torch.device) -> dict[str, float]:
    """Seconds of the fastest of `repeats` runs of each; they take turns, so that a slow moment hits all of them.

    On CUDA everything runs once before, untimed.

    Raises:
        UsageError: `repeats` is below 1.
    """
    check_repeats(repeats)
    if device.type == "cuda":
        for run in runs.values():
            run()
    times = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            start = now(device)
            run()
            times[name].append(now(device) - start)
    return {name: min(values) for name, values in times.items()}


def check_repeats(repeats: int) -> None:
    """UsageError for a number of runs that times nothing."""
    if repeats < 1:
        raise UsageError(f"repeats={repeats}: at least one run has to be timed")


def peak_column(run: Callable[[], object], device: torch.device) -> dict[str, float]:
    """Peak GPU memory of `run` above what is held already, as a column of a row; no column without a GPU."""
    if device.type != "cuda":
        return {}
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    run()
    torch.cuda.synchronize(device)
    return {"peak, MiB": (torch.cuda.max_memory_allocated(device) - before) / 2**20}


def largest_difference(value: torch.Tensor, expected: torch.Tensor) -> float:
    """Of two tensors of one shape, relative to the largest entry that is expected; computed in float64."""
    value, expected = value.detach().double(), expected.detach().double()
    return ((value - expected).abs().max() / expected.abs().max()).item()


def as_table(rows: list[dict]) -> str:
    """Markdown; three significant digits."""
    return tabulate(rows, headers="keys", tablefmt="github", floatfmt=".3g")


def header() -> str:
    """Versions, engines, platform, processor and devices, a line each."""
    rows = [*env.describe(), ("processor", f"{processor()}, {os.cpu_count()} cores")]
    return "\n".join(f"{name}: {value}" for name, value in rows)


def processor() -> str:
    """The processor's name as Linux gives it, elsewhere as Python does."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
