"""What does resampling a ViT's patch kernel change? Its statistics, and the features of one scene on one grid.

A scene resized to (grid x patch) pixels has the same cells at every patch size, so features compare cell by cell: the
native patch is the reference, the pseudo-inverse and the plain bicubic resize (see `resampling`) stand against it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from tabulate import tabulate

from dinov2_detrex.backbone.resampling import METHODS
from dinov2_detrex.backbone.timm_backbone import TimmBackbone
from dinov2_detrex.backbone.vit_families import PlainViT
from dinov2_detrex.backbone.weights import load_vit
from dinov2_detrex.runtime.errors import building

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass
class Variant:
    """A model with one patch size, however it got it."""

    name: str
    backbone: TimmBackbone

    @property
    def kernel(self) -> torch.Tensor:
        """(C, 3, patch, patch) weights of the patch embedding."""
        return _vit_of(self.backbone).patch_embed.proj.weight.detach()

    @property
    def patch(self) -> int:
        return self.kernel.shape[-1]


def build_variants(
    model_name: str, patch_size: int = 16, pretrained: bool = False, checkpoint_path: str = "", **timm_kwargs
) -> list[Variant]:
    """The native model, then one at `patch_size` for each method, all from the same weights (random ones by default).

    Args:
        model_name, pretrained, checkpoint_path, timm_kwargs: see `TimmBackbone`.
        patch_size: the patch to resample to.

    Raises:
        ValueError: it is no plain ViT.
    """
    native = TimmBackbone(
        model_name, pretrained=pretrained, checkpoint_path=checkpoint_path, out_indices=(-1,), norm=True, **timm_kwargs
    ).eval()
    variants = [Variant(f"patch {native.size_divisibility}, native", native)]
    vit = _vit_of(native)
    image_hw = tuple(n * patch_size for n in vit.patch_embed.grid_size)  # keeps the grid of positions
    for method in METHODS:
        options: dict[str, Any] = {**timm_kwargs, "patch_size": patch_size, "img_size": image_hw}
        backbone = TimmBackbone(model_name, out_indices=(-1,), norm=True, **options).eval()
        load_vit(_vit_of(backbone), vit.state_dict(), "the native model", method, native.pos_embed_mode)
        variants.append(Variant(f"patch {patch_size}, {method}", backbone))
    return variants


def _vit_of(backbone: TimmBackbone) -> PlainViT:
    if backbone.vit is None:
        raise ValueError(f"{type(backbone.timm_model).__name__} is no plain ViT, which alone has a patch to resample")
    return backbone.vit


def kernel_statistics(kernel: torch.Tensor) -> dict[str, float]:
    """Mean, spread, range, mean norm of a filter, and mean response to a constant patch of one (C, 3, p, p) kernel."""
    return {
        "mean": kernel.mean().item(),
        "std": kernel.std().item(),
        "min": kernel.min().item(),
        "max": kernel.max().item(),
        "filter norm": kernel.flatten(1).norm(dim=1).mean().item(),
        "|response to 1|": kernel.sum(dim=(1, 2, 3)).abs().mean().item(),
    }


def grid_of(image: Image.Image, cells: int) -> tuple[int, int]:
    """(H, W) of a grid with the image's aspect ratio and `cells` on its longer side."""
    scale = cells / max(image.size)
    return max(1, round(image.height * scale)), max(1, round(image.width * scale))


@torch.no_grad()
def features(variant: Variant, image: Image.Image, grid_hw: tuple[int, int]) -> torch.Tensor:
    """(H, W, C) normed patch tokens of an RGB image resized to `grid_hw` patches."""
    pixels = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)[None].float() / 255
    size = [n * variant.patch for n in grid_hw]
    pixels = F.interpolate(pixels, size=size, mode="bicubic", antialias=True).clamp(0, 1)
    mean, std = torch.tensor([IMAGENET_MEAN, IMAGENET_STD]).view(2, 1, 3, 1, 1)
    return variant.backbone((pixels - mean) / std)["p-1"][0].permute(1, 2, 0)


def similarity(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """(H, W) cosine of the angle between the features of each cell."""
    return F.cosine_similarity(a, b, dim=-1)


def describe(variants: Sequence[Variant], feature_maps: dict[str, list[torch.Tensor]]) -> str:
    """The table: kernel statistics, and mean and 5 % quantile of the similarity to the native features."""
    native = feature_maps[variants[0].name]
    rows = []
    for variant in variants:
        cosines = [similarity(a, b).flatten() for a, b in zip(feature_maps[variant.name], native)]
        cosines = torch.cat(cosines)
        rows.append(
            {
                "variant": variant.name,
                **kernel_statistics(variant.kernel),
                "cosine": cosines.mean().item(),
                "cosine, 5 %": cosines.quantile(0.05).item(),
            }
        )
    return tabulate(rows, headers="keys", floatfmt=".4g")


def compare(
    model_name: str,
    images: Sequence[Image.Image],
    figure_path: str | Path = "",
    patch_size: int = 16,
    cells: int = 37,
    pretrained: bool = False,
    checkpoint_path: str = "",
    **timm_kwargs,
) -> str:
    """Compare the patch sizes and methods on some images; return the table and save the figure where a path is given.

    Args:
        model_name, pretrained, checkpoint_path, timm_kwargs: see `TimmBackbone`.
        images: what to look at.
        figure_path: a file for kernel histograms, kernels and features as colours; needs matplotlib.
        patch_size: the patch to resample to.
        cells: cells on the longer side of the images.
    """
    with building(model_name):
        variants = build_variants(model_name, patch_size, pretrained, checkpoint_path, **timm_kwargs)
    feature_maps = {v.name: [features(v, image, grid_of(image, cells)) for image in images] for v in variants}
    if figure_path:
        from dinov2_detrex.analysis.patch_figure import draw

        kernels = {variant.name: variant.kernel for variant in variants}
        draw(kernels, feature_maps, images, Path(figure_path))
    source = variants[0].backbone.weights_report
    return f"{model_name}: {source}\n{describe(variants, feature_maps)}"
