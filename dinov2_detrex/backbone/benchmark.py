"""What do windows cost less, and freezing spare? Time and arithmetic by image size, peak memory of a training step.

Every number is one row of one run; only ratios within a run mean anything.
"""

import multiprocessing
import resource
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from tabulate import tabulate
from torch.utils.flop_counter import FlopCounterMode

from dinov2_detrex.backbone.timm_backbone import TimmBackbone

SIZES_PX = (518, 1024, 1536)


def padded(size_px: int, multiple: int) -> int:
    """The next multiple, as the detector pads."""
    return -(-size_px // multiple) * multiple


def attention_rows(sizes_px: Sequence[int], depth: int, window_size: int, repeats: int, model_name: str) -> list[dict]:
    """One row for each size: time and arithmetic of `depth` blocks, all global and all windowed, patch 16, batch 1."""
    blocks = list(range(depth))
    options = {"patch_size": 16, "img_size": 592, "depth": depth}
    kinds = {
        "global": TimmBackbone(model_name, **options).eval(),
        "windowed": TimmBackbone(model_name, window_size=window_size, window_block_indexes=blocks, **options).eval(),
    }
    rows = []
    for size_px in sizes_px:
        side = padded(size_px, 16)
        row = {"image": size_px, "grid": f"{side // 16}x{side // 16}", "megapixels": side * side / 1e6}
        for kind, backbone in kinds.items():
            images = torch.randn(1, 3, side, side)
            row[f"{kind}: CPU ms a block"] = 1000 / depth * best_time(lambda b=backbone, x=images: b(x), repeats)
            row[f"{kind}: attention GFLOP a block"] = attention_flops(backbone, images) / depth / 1e9
        rows.append(row)
    return rows


@torch.no_grad()
def best_time(run: Callable[[], object], repeats: int) -> float:
    """CPU seconds of the fastest of `repeats` runs; with one thread, whatever else the machine does adds little."""
    times = []
    for _ in range(repeats):
        start = time.process_time()
        run()
        times.append(time.process_time() - start)
    return min(times)


@torch.no_grad()
def attention_flops(backbone: torch.nn.Module, images: torch.Tensor) -> int:
    """Floating-point operations of the attention products, as torch counts them."""
    with FlopCounterMode(display=False) as counter:
        backbone(images)
    return sum(n for operator, n in counter.get_flop_counts()["Global"].items() if "attention" in str(operator))


def memory_rows(build: Callable[[dict], tuple], variants: dict[str, dict]) -> list[dict]:
    """Peak memory of one training step for each variant, each in a process of its own.

    Args:
        build: variant's settings -> (model, its inputs); must be importable, the model returns a dict of losses.
        variants: name -> settings.
    """
    context = multiprocessing.get_context("spawn")
    rows = []
    for name, settings in variants.items():
        with context.Pool(1) as pool:
            rows.append({"backbone": name, **pool.apply(training_step_memory, (build, settings))})
    return rows


def training_step_memory(build: Callable[[dict], tuple], settings: dict) -> dict:
    """Build, run one forward and backward; the rise of the process's peak above the built model (MiB), and the time.

    Reads Linux's own counters: what the allocator holds counts, as it does where memory runs out.
    """
    torch.set_num_threads(1)  # so that CPU time is time
    model, inputs = build(settings)
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    before_mib = pages * resource.getpagesize() / 2**20
    start = time.process_time()
    sum(model.train()(inputs).values()).backward()
    seconds = time.process_time() - start
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    return {"peak above the model, MiB": round(peak_mib - before_mib), "step, CPU s": round(seconds, 1)}


def as_table(rows: list[dict]) -> str:
    return tabulate(rows, headers="keys", tablefmt="github", floatfmt=".3g")
