"""What can the machine do at most? Its rates for matrix products and for moving memory, measured in the same run."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from dinov2_detrex.analysis.benchmark.timing import best_times

SIDE = {"cpu": 1536, "cuda": 8192}  # of the matrices
MEMORY_MIB = {"cpu": 256, "cuda": 2048}  # that is copied; more than caches hold


@dataclass(frozen=True)
class Limits:
    """Rates of one device.

    Attributes:
        flops: floating-point operations of a matrix product a second, by dtype's name.
        bytes: read and written a second.
    """

    flops: dict[str, float]
    bytes: float


def measure_limits(device: torch.device, dtypes: list[torch.dtype], repeats: int = 5) -> Limits:
    """The fastest of some products and copies, each warmed up once."""
    flops = {name_of(dtype): product_rate(device, dtype, repeats) for dtype in dtypes}
    return Limits(flops, copy_rate(device, repeats))


def product_rate(device: torch.device, dtype: torch.dtype, repeats: int) -> float:
    """Operations a second of a product of two square matrices; a multiply-add is 2."""
    side = SIDE.get(device.type, SIDE["cpu"])
    left, right = (torch.ones(side, side, dtype=dtype, device=device) for _ in range(2))
    return 2 * side**3 / _seconds(lambda: left @ right, repeats, device)


def copy_rate(device: torch.device, repeats: int) -> float:
    """Bytes a second, read and written, of a copy."""
    source = torch.ones(MEMORY_MIB.get(device.type, MEMORY_MIB["cpu"]) * 2**18, device=device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / _seconds(lambda: target.copy_(source), repeats, device)


def _seconds(run: Callable[[], object], repeats: int, device: torch.device) -> float:
    run()
    return best_times({"": run}, repeats, device)[""]


def name_of(dtype: torch.dtype) -> str:
    """E.g. "bfloat16"."""
    return str(dtype).removeprefix("torch.")
