"""What do windows cost less than global attention? Time and arithmetic of a ViT's blocks by image size."""

from collections.abc import Sequence
from typing import Any

import torch

from dinov2_detrex.analysis.benchmark.timing import as_table, best_times, peak_column
from dinov2_detrex.analysis.flops import flops_by_module
from dinov2_detrex.backbone.timm_backbone import TimmBackbone
from dinov2_detrex.runtime.errors import building


def report(
    device: torch.device,
    repeats: int,
    model_name: str,
    depth: int,
    window_size: int,
    sizes_px: Sequence[int],
) -> str:
    """The table of `window_rows` and what it shows."""
    title = f"{model_name} at patch 16: {depth} blocks, all global or all in windows of {window_size} x {window_size}"
    return f"{title}\n\n{as_table(window_rows(sizes_px, depth, window_size, repeats, model_name, device))}"


def window_rows(
    sizes_px: Sequence[int], depth: int, window_size: int, repeats: int, model_name: str, device: torch.device
) -> list[dict]:
    """One row for each size: time and arithmetic of `depth` blocks, all global and all windowed, patch 16, batch 1."""
    blocks = list(range(depth))
    options: dict[str, Any] = {"patch_size": 16, "img_size": 592, "depth": depth}
    with building(model_name):
        backbones = {
            "global": TimmBackbone(model_name, **options),
            "windowed": TimmBackbone(model_name, window_size=window_size, window_block_indexes=blocks, **options),
        }
    for backbone in backbones.values():
        backbone.eval().to(device)
    return [size_row(size_px, backbones, depth, repeats, device) for size_px in sizes_px]


@torch.no_grad()
def size_row(size_px: int, backbones: dict, depth: int, repeats: int, device: torch.device) -> dict:
    """Both kinds on one random image of that size, padded to whole patches."""
    side = padded(size_px, 16)
    images = torch.randn(1, 3, side, side, device=device)
    row = {"image": size_px, "grid": f"{side // 16}x{side // 16}", "megapixels": side * side / 1e6}
    runs = {kind: lambda backbone=backbone: backbone(images) for kind, backbone in backbones.items()}
    times = best_times(runs, repeats, device)
    for kind, backbone in backbones.items():
        row[f"{kind}: ms a block"] = 1000 / depth * times[kind]
        row[f"{kind}: attention GFLOP a block"] = attention_flops(backbone, images) / depth / 1e9
        row.update({f"{kind}: {name}": value for name, value in peak_column(runs[kind], device).items()})
    row["time, windowed : global"] = times["windowed"] / times["global"]
    return row


def padded(size_px: int, multiple: int) -> int:
    """The next multiple, as the detector pads."""
    return -(-size_px // multiple) * multiple


def attention_flops(backbone: torch.nn.Module, images: torch.Tensor) -> int:
    """Floating-point operations of the attention products of a plain ViT: of its `attn` modules, less their layers."""
    return sum(flops for name, flops in flops_by_module(backbone, images).items() if name.endswith(".attn"))
