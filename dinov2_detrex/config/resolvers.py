"""The arithmetic that recipes need: values that follow from others, so that one override changes all of them.

A value is an interpolation with one of the resolvers below, e.g. `num_pos_feats="${d2d.half:${..embed_dim}}"`.
The names without the prefix stand in configs written before there was one.
"""

import math

from omegaconf import OmegaConf

from dinov2_detrex.data.errors import DatasetError
from dinov2_detrex.data.folders import VALIDATION
from dinov2_detrex.data.source import Paths, count_classes, count_images, is_there
from dinov2_detrex.runtime.openmp import usable_cores

NAMESPACE = "d2d"  # of dinov2_detrex


def half(value: int) -> int:
    """`${d2d.half:n}`: n / 2 of an even number; ValueError for an odd one."""
    if value % 2:
        raise ValueError(f"{value} must be even to be halved")
    return value // 2


def iterations(epochs: float, images_per_epoch: int, total_batch_size: int, fewest: int = 0) -> int:
    """`${d2d.iterations:epochs,images,batch}`: optimizer steps in that many passes over the images, rounded up; with a
    fourth number at least that many."""
    return max(math.ceil(epochs * images_per_epoch / total_batch_size), fewest)


def pyramid_levels(patch_size: int, scale_factors, extra_levels: int = 0) -> list[str]:
    """`${d2d.pyramid_levels:patch,scales,extra}`: the names of a pyramid's maps, fine to coarse.

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
    """`${d2d.native_img_size:name,patch}`: the image size that keeps a pretrained ViT's own grid of positions: 592 for
    a DINOv2 at patch 16; None, which leaves it to timm, for what is no plain ViT."""
    from dinov2_detrex.backbone.native import img_size_of_native_grid

    return img_size_of_native_grid(model_name, patch_size)


def at_least(number: int, max_objects: int | None) -> int:
    """`${d2d.at_least:900,${.max_objects}}`: the number, or `model.max_objects` where that is given and larger.

    Raises:
        ValueError: `max_objects` is no whole number of at least 1.
    """
    if max_objects is None:
        return number
    if isinstance(max_objects, bool) or not isinstance(max_objects, int) or max_objects < 1:
        raise ValueError(f"model.max_objects={max_objects!r} must be a whole number of at least 1, or null")
    return max(number, max_objects)


def detections_judged(number: int, *, _root_) -> int | None:
    """`${d2d.detections_judged:100}`: of an evaluator, whichever model it judges: `at_least` of the config's
    `model.max_objects`; None, its own default, where that is not given."""
    max_objects = OmegaConf.select(_root_, "model.max_objects")
    return None if max_objects is None else at_least(number, max_objects)


def num_blocks(net) -> int:
    """`${d2d.num_blocks:${model.backbone.net}}`: the depth of that ViT: 12, unless `net.depth` says otherwise or timm's
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


def even_maps(net, count: int) -> list[str]:
    """`${d2d.even_maps:${.net},4}`: maps of that many blocks of a ViT at even distances, the last one among them.

    They are for `in_feature`: ["p2", "p5", "p8", "p11"] of 12 blocks; those of all blocks where there are fewer.

    Raises:
        ValueError: a count below 1, or `net` is no plain ViT of timm.
    """
    if count < 1:
        raise ValueError(f"even_maps: {count} blocks cannot be chosen; at least one")
    blocks = num_blocks(net)
    count = min(count, blocks)
    return [f"p{blocks * (i + 1) // count - 1}" for i in range(count)]


def map_indices(names: list[str]) -> list[int]:
    """`${d2d.map_indices:${..in_feature}}`: the `out_indices` of a `TimmBackbone` that give maps of these names."""
    return [int(name.removeprefix("p")) for name in names]


def share(value: float, numerator: int, denominator: int) -> float:
    """`${d2d.share:value,n,d}`: value x n / d, e.g. the epoch at 11/12 of a run."""
    return value * numerator / denominator


def scaled(value: float, factor: float) -> int:
    """`${d2d.scaled:value,factor}`: the product, rounded to a whole number (of pixels)."""
    return round(value * factor)


def short_sides(size: int) -> list[int]:
    """`${d2d.short_sides:size}`: DETR's eleven training sizes, 0.60, 0.64, ... 1 of the largest: 480 ... 800 of 800."""
    return [scaled(size, percent / 100) for percent in range(60, 101, 4)]


def workers(most: int) -> int:
    """`${d2d.workers:4}`: a loader's processes: as many as there are cores for this one, and at most that many."""
    return min(most, usable_cores())


def warmup_share(warmup_iters: int, max_iter: int) -> float:
    """`${d2d.warmup_share:warmup,length}`: the part of the run that warms up, at most half of a very short one."""
    return min(warmup_iters / max_iter, 0.5)


def classes_in(json_file: Paths, otherwise: int) -> int:
    """`${d2d.classes_in:path,n}`: categories that a data set defines; n as long as its annotations are not there."""
    return count_classes(json_file) if is_there(json_file) else otherwise


def images_in(json_file: Paths, otherwise: int) -> int:
    """`${d2d.images_in:path,n}`: images that a data set lists; n as long as its annotations are not there."""
    return count_images(json_file) if is_there(json_file) else otherwise


def train_part(folder: Paths | None, otherwise: str, held_out: float | None = None, seed: int = 0) -> str | list[str]:
    """`${d2d.train_part:folder,file,0.2,0}`: `FOLDER#train`, the part of a folder to train on, or of each of a list.

    Args:
        folder: of one data set, or several that are joined; None for the file.
        otherwise: the file.
        held_out: a fraction of the images to leave to `val_part`, where the folder has no part for validation.
        seed: of what is held out.

    Raises:
        DatasetError: the folder is there and has no such part, or one for validation beside `held_out`.
    """
    return _part(folder, otherwise, held_out, seed, ("train",))


def val_part(folder: Paths | None, otherwise: str, held_out: float | None = None, seed: int = 0) -> str | list[str]:
    """`${d2d.val_part:folder,file,0.2,0}`: likewise the part to evaluate on, named val, valid or validation."""
    return _part(folder, otherwise, held_out, seed, VALIDATION)


def _part(folder: Paths | None, otherwise: str, held_out: float | None, seed: int, names: tuple[str, ...]):
    if held_out is not None and not folder:
        raise DatasetError(f"data.split={held_out} splits the folder of data.path=FOLDER, which is not given")
    if not folder:
        return otherwise
    from dinov2_detrex.data.parts import part_of, share_of

    return part_of(folder, *names) if held_out is None else share_of(folder, held_out, seed, names == VALIDATION)


def unless(given: Paths | None, otherwise: str) -> str | None:
    """`${d2d.unless:given,value}`: the value, or None where something is given in its place."""
    return None if given else otherwise


RESOLVERS = {
    "train_part": train_part,
    "val_part": val_part,
    "unless": unless,
    "classes_in": classes_in,
    "images_in": images_in,
    "half": half,
    "scaled": scaled,
    "short_sides": short_sides,
    "native_img_size": native_img_size,
    "num_blocks": num_blocks,
    "even_maps": even_maps,
    "map_indices": map_indices,
    "at_least": at_least,
    "detections_judged": detections_judged,
    "share": share,
    "warmup_share": warmup_share,
    "workers": workers,
    "count": len,
    "iterations": iterations,
    "pyramid_levels": pyramid_levels,
}


def register_resolvers() -> None:
    """Make the resolvers known to omegaconf, as `d2d.NAME`; calling it again changes nothing.

    The bare NAME is registered as well where nobody else has taken it: a program's own `half` stays its own.
    """
    for name, function in RESOLVERS.items():
        OmegaConf.register_new_resolver(f"{NAMESPACE}.{name}", function, replace=True)
        if not OmegaConf.has_resolver(name):
            OmegaConf.register_new_resolver(name, function)
