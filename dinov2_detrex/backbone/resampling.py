"""How do weights of one patch, grid and channel count fit a model of another?

Patch kernels: the pseudo-inverse resize of FlexiViT (arXiv 2212.08013, section 3.4), which keeps the embedding of a
resized patch, or the plain bicubic resize of EVA's script (github.com/baaivision/EVA, interpolate_patch_14to16.py).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from timm.layers.patch_embed import resample_patch_embed
from timm.models import adapt_input_conv

from dinov2_detrex.backbone.position import resample_pos_embed
from dinov2_detrex.backbone.vit_families import PlainViT
from dinov2_detrex.backbone.weight_files import WeightsError

METHODS = ("pi", "bicubic")


def check_method(method: str) -> str:
    """Return `method`; ValueError unless it is one of "pi", "bicubic"."""
    if method not in METHODS:
        raise ValueError(f"patch_resample={method!r} is not a method; choose one of {', '.join(map(repr, METHODS))}")
    return method


def resample_kernel(kernel: torch.Tensor, patch_hw: tuple[int, int], method: str) -> torch.Tensor:
    """Resize a patch kernel (C, C_in, h0, w0) to (C, C_in, h, w); unchanged where the size fits.

    Args:
        kernel: weights of the patch embedding.
        patch_hw: wanted (h, w) in pixels.
        method: "pi" for FlexiViT's pseudo-inverse (timm's own), "bicubic" for EVA's plain interpolation.

    Raises:
        ValueError: another method.
    """
    check_method(method)
    if tuple(kernel.shape[-2:]) == tuple(patch_hw):
        return kernel
    if method == "pi":
        return resample_patch_embed(kernel, list(patch_hw))
    resized = F.interpolate(kernel.float(), size=tuple(patch_hw), mode="bicubic", align_corners=False)
    return resized.to(kernel.dtype)


@dataclass
class Fit:
    """A state dict made to fit a ViT: its source's patch and grid, and what was changed."""

    state: dict[str, torch.Tensor]
    patch_hw: tuple[int, int]
    grid_hw: tuple[int, int] | None = None
    changes: list[str] = field(default_factory=list)


def fit_to_vit(
    state: dict[str, torch.Tensor], vit: PlainViT, source: str, patch_resample: str, pos_mode: str, same_grid: bool
) -> Fit:
    """Fit kernel, positions and input channels of `state` (timm's names) to the model.

    Args:
        state: what `weight_layouts.to_timm_names` made.
        vit: the model that is to take it.
        source: named in errors.
        patch_resample: see `resample_kernel`.
        pos_mode: how positions reach another grid, see `position.resample_grid`.
        same_grid: where the number of positions equals the model's, take them as its grid even if that is not square.

    Raises:
        WeightsError: the positions are no square grid.
    """
    state = dict(state)
    kernel = state["patch_embed.proj.weight"]
    height, width = kernel.shape[-2:]
    fit = Fit(state, patch_hw=(height, width))
    _fit_positions(fit, vit, source, pos_mode, same_grid)
    kernel = resample_kernel(kernel, vit.patch_embed.patch_size, patch_resample)
    if fit.patch_hw != vit.patch_embed.patch_size:
        fit.changes.append(f"patch {times(fit.patch_hw)} -> {times(vit.patch_embed.patch_size)} ({patch_resample})")
    channels = vit.patch_embed.proj.in_channels
    if kernel.shape[1] == 3 and channels != 3:
        kernel = adapt_input_conv(channels, kernel)
        fit.changes.append(f"input channels 3 -> {channels}")
    state["patch_embed.proj.weight"] = kernel
    return fit


def _fit_positions(fit: Fit, vit: PlainViT, source: str, pos_mode: str, same_grid: bool) -> None:
    """Move class positions where the model has none of its own, then resize the grid."""
    positions = fit.state.get("pos_embed")
    if positions is None or vit.pos_embed is None:
        return
    num_prefix = 0 if getattr(vit, "no_embed_class", False) else vit.num_prefix_tokens
    model_hw = vit.patch_embed.grid_size
    if num_prefix == 0 and "cls_token" in fit.state and _is_square(positions.shape[1] - 1):
        # the model adds no position to its class token, so the stored one goes into the token
        fit.state["cls_token"] = fit.state["cls_token"] + positions[:, :1]
        positions = positions[:, 1:]
    count = positions.shape[1] - num_prefix
    if _is_square(count) and not (same_grid and count == math.prod(model_hw)):
        grid_hw = math.isqrt(count), math.isqrt(count)
    elif count == math.prod(model_hw):
        grid_hw = model_hw
    else:
        raise WeightsError(f"{source} has {count} positions, which is no square grid, and the model {times(model_hw)}")
    if grid_hw != model_hw:
        positions = resample_pos_embed(positions, grid_hw, model_hw, num_prefix, pos_mode)
        fit.changes.append(f"positions {times(grid_hw)} -> {times(model_hw)}" + _how_to_keep(vit, grid_hw))
    fit.grid_hw, fit.state["pos_embed"] = grid_hw, positions


def _how_to_keep(vit: PlainViT, grid_hw: tuple[int, int]) -> str:
    height, width = (n * patch for n, patch in zip(grid_hw, vit.patch_embed.patch_size))
    return f" (img_size={height if height == width else (height, width)} would keep them)"


def _is_square(count: int) -> bool:
    return count > 0 and math.isqrt(count) ** 2 == count


def times(size: Sequence[int]) -> str:
    """(37, 37) -> "37x37"."""
    return "x".join(map(str, size))
