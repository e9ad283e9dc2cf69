"""What is a plain ViT of timm by itself: its patch, its grid of positions, its depth? Asked by the recipes."""

import functools
from dataclasses import dataclass

import timm
import torch

from dinov2_detrex.backbone.timm_factory import architecture
from dinov2_detrex.backbone.vit_families import as_plain_vit


@dataclass(frozen=True)
class NativeViT:
    """A plain ViT as timm defines it, without any argument."""

    patch_hw: tuple[int, int]  # pixels
    grid_hw: tuple[int, int]  # cells of its own image size
    num_blocks: int


@functools.cache
def native_vit(model_name: str) -> NativeViT | None:
    """Facts about the model of that name, built on the meta device: no memory, no weights.

    Returns:
        None where timm does not know the name, or the model is no plain ViT.
    """
    if not timm.is_model(architecture(model_name)):
        return None
    with torch.device("meta"):
        vit = as_plain_vit(timm.create_model(architecture(model_name)))
    if vit is None:
        return None
    return NativeViT(vit.patch_embed.patch_size, vit.patch_embed.grid_size, len(vit.blocks))


def img_size_of_native_grid(model_name: str, patch_size: int | None) -> int | tuple[int, int] | None:
    """The image size, in pixels, at which patches of `patch_size` make the model's own grid of positions.

    Returns:
        e.g. 592 for a DINOv2 (37 x 37 cells) at patch 16; None, timm's "the model's own", where there is nothing to
        choose: no `patch_size`, or no plain ViT.
    """
    vit = native_vit(model_name)
    if vit is None or patch_size is None:
        return None
    height, width = (cells * patch_size for cells in vit.grid_hw)
    return height if height == width else (height, width)
