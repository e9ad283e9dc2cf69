"""Where the recipes lie, how a config refers to the shared ones, and the arithmetic that recipes need.

`get_config("common/train.py")` loads a shared file. Values that follow from others are interpolations with one of
the resolvers below, e.g. `num_pos_feats="${half:${..embed_dim}}"`, so that one override changes all of them.
"""

import math
import os
from pathlib import Path

from omegaconf import OmegaConf

from dinov2_detrex.data.source import count_classes, count_images

PACKAGE_DIR = Path(__file__).parent


def recipes_dir() -> Path:
    """The folder that holds `configs/` and `projects/`: the package itself when installed, else the checkout."""
    return PACKAGE_DIR if (PACKAGE_DIR / "configs").is_dir() else PACKAGE_DIR.parent


def get_config(config_path: str | os.PathLike):
    """Load a shared config, e.g. "common/train.py", as an independent copy.

    Args:
        config_path: path below `configs/`.

    Returns:
        an omegaconf `DictConfig` of the file's public config objects.

    Raises:
        RuntimeError: there is no such file; the message lists the ones there are.
    """
    from detectron2.config import LazyConfig  # here, because configs and models may import this module

    root = recipes_dir() / "configs"
    path = root / config_path
    if not path.is_file():
        known = ", ".join(sorted(str(p.relative_to(root)) for p in root.rglob("*.py")))
        raise RuntimeError(f"{os.fspath(config_path)!r} is not a config of dinov2_detrex; there are: {known}")
    return LazyConfig.load(str(path))


def half(value: int) -> int:
    """`${half:n}`: n / 2 of an even number; ValueError for an odd one."""
    if value % 2:
        raise ValueError(f"{value} must be even to be halved")
    return value // 2


def iterations(epochs: float, images_per_epoch: int, total_batch_size: int) -> int:
    """`${iterations:epochs,images,batch}`: optimizer steps in that many passes over the images, rounded up."""
    return math.ceil(epochs * images_per_epoch / total_batch_size)


def pyramid_levels(patch_size: int, scale_factors, extra_levels: int = 0) -> list[str]:
    """`${pyramid_levels:patch,scales,extra}`: the names of a pyramid's maps, fine to coarse.

    Args:
        patch_size: stride of the ViT's map in pixels.
        scale_factors: resolution of each map relative to the ViT's.
        extra_levels: maps that the top block adds, each at twice the stride of the one before.

    Returns:
        e.g. ["p3", "p4", "p5", "p6"] for patch 16 or 14, scales (2, 1, 0.5) and one extra level.
    """
    from dinov2_detrex.backbone.pyramid import level_of_stride

    strides = [patch_size / scale for scale in scale_factors]
    strides += [strides[-1] * 2**i for i in range(1, extra_levels + 1)]
    return [f"p{level_of_stride(stride)}" for stride in strides]


def pyramid_shapes(levels: list[str], channels: int) -> dict:
    """`L(pyramid_shapes)(levels=..., channels=...)`: the neck's `input_shapes`, every level with the same channels."""
    from detectron2.layers import ShapeSpec

    return {level: ShapeSpec(channels=channels) for level in levels}


def native_img_size(model_name: str, patch_size: int | None):
    """`${native_img_size:name,patch}`: the image size that keeps a pretrained ViT's own grid of positions: 592 for a
    DINOv2 at patch 16; None, which leaves it to timm, for what is no plain ViT."""
    from dinov2_detrex.backbone.native import img_size_of_native_grid

    return img_size_of_native_grid(model_name, patch_size)


def num_blocks(net) -> int:
    """`${num_blocks:${model.backbone.net}}`: the depth of that ViT: 12, unless `net.depth` says otherwise or timm's
    model of `net.model_name` is deeper.

    Raises:
        ValueError: it is no plain ViT of timm.
    """
    from dinov2_detrex.backbone.native import native_vit

    if net.get("depth"):
        return net["depth"]
    vit = native_vit(net["model_name"])
    if vit is None:
        raise ValueError(f"{net['model_name']!r} is no plain ViT of timm, so it has no blocks to count")
    return vit.num_blocks


def share(value: float, numerator: int, denominator: int) -> float:
    """`${share:value,n,d}`: value x n / d, e.g. the epoch at 11/12 of a run."""
    return value * numerator / denominator


def scaled(value: float, factor: float) -> int:
    """`${scaled:value,factor}`: the product, rounded to a whole number (of pixels)."""
    return round(value * factor)


def short_sides(size: int) -> list[int]:
    """`${short_sides:size}`: DETR's eleven training sizes, 0.60, 0.64, ..., 1.00 of the largest: 480 ... 800 of 800."""
    return [scaled(size, percent / 100) for percent in range(60, 101, 4)]


def warmup_share(warmup_iters: int, max_iter: int) -> float:
    """`${warmup_share:warmup,length}`: the part of the run that warms up, at most half of a very short one."""
    return min(warmup_iters / max_iter, 0.5)


def classes_in(json_file: str, otherwise: int) -> int:
    """`${classes_in:path,n}`: categories that a data set defines; n as long as its annotations are not there."""
    return count_classes(json_file) if json_file and Path(json_file).expanduser().exists() else otherwise


def images_in(json_file: str, otherwise: int) -> int:
    """`${images_in:path,n}`: images that a data set lists; n as long as its annotations are not there."""
    return count_images(json_file) if json_file and Path(json_file).expanduser().exists() else otherwise


RESOLVERS = {
    "classes_in": classes_in,
    "images_in": images_in,
    "half": half,
    "scaled": scaled,
    "short_sides": short_sides,
    "native_img_size": native_img_size,
    "num_blocks": num_blocks,
    "share": share,
    "warmup_share": warmup_share,
    "count": len,
    "iterations": iterations,
    "pyramid_levels": pyramid_levels,
}


def register_resolvers() -> None:
    """Make the resolvers known to omegaconf; calling it again changes nothing."""
    for name, function in RESOLVERS.items():
        OmegaConf.register_new_resolver(name, function, replace=True)
