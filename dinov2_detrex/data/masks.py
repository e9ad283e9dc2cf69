"""COCO's segmentations of an object: polygons, or a run-length encoding (RLE) of its mask; and the box around one.

Polygons are [x1, y1, x2, y2, ...] in pixels. An RLE is {"size": [height, width], "counts": runs of 0 and 1 in turn,
column by column}, its counts a list or pycocotools' compressed text.
"""

import math
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

_LARGEST_MASK = 2**32  # pycocotools counts pixels in 32 bits


def is_polygon(value: Any) -> bool:
    """Whether it is a list of three points or more, as detectron2 asks, of finite numbers."""
    if type(value) is not list or len(value) < 6 or len(value) % 2:
        return False
    try:
        return set(map(type, value)) <= {int, float} and math.isfinite(sum(value))
    except OverflowError:
        return False


def is_rle(value: Any) -> bool:
    """Whether it is an RLE, of whose counts, if they are a list, the sum is the size."""
    if not isinstance(value, dict):
        return False
    size, counts = value.get("size"), value.get("counts")
    if not isinstance(size, list) or len(size) != 2 or any(type(side) is not int or side < 1 for side in size):
        return False
    if size[0] * size[1] >= _LARGEST_MASK:
        return False
    if isinstance(counts, str):
        return counts.isascii() and counts.isprintable()
    return isinstance(counts, list) and set(map(type, counts)) <= {int} and _fill(counts, size)


def _fill(counts: list[int], size: list[int]) -> bool:
    return min(counts, default=-1) >= 0 and sum(counts) == size[0] * size[1]


def box_of_segmentation(segmentation: list[Any] | dict[str, Any], image_hw: tuple[int, int]) -> list[float] | None:
    """The box around a sound segmentation, XYWH in pixels; None for a mask of another size than the image's.

    Pixels of an RLE are taken whole, as by pycocotools; a mask without any pixel gives a box without area.
    """
    if isinstance(segmentation, list):
        xs = [x for polygon in segmentation for x in polygon[0::2]]
        ys = [y for polygon in segmentation for y in polygon[1::2]]
        return [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]
    if tuple(segmentation["size"]) != image_hw:
        return None
    rle: Any = segmentation  # of a kind that the stubs do not know
    if isinstance(segmentation["counts"], list):
        rle = coco_mask.frPyObjects(rle, *image_hw)
    x, y, width, height = coco_mask.toBbox(rle).tolist()
    inside = 0 <= x <= x + width <= image_hw[1] and 0 <= y <= y + height <= image_hw[0]
    return [x, y, width, height] if inside else None


def mask_in_box(segmentation: Any, image_hw: tuple[int, int], box: tuple[int, int, int, int]) -> np.ndarray | None:
    """(y1 - y0, x1 - x0), uint8: 1 on the object, in the window `box`, XYXY in whole pixels; None where the
    segmentation is of another image size, no sound one, or leaves no pixel there."""
    x0, y0, x1, y1 = box
    whole = mask_of(segmentation, image_hw)
    mask = None if whole is None else np.ascontiguousarray(whole[y0:y1, x0:x1])
    return mask if mask is not None and mask.any() else None


def mask_of(segmentation: Any, image_hw: tuple[int, int]) -> np.ndarray | None:
    """(H, W), uint8: 1 on the object; None where the segmentation is of another image size, or no sound one."""
    rle: Any = segmentation  # of a kind that the stubs do not know
    if isinstance(segmentation, list) and segmentation and all(map(is_polygon, segmentation)):
        rle = coco_mask.merge(coco_mask.frPyObjects(rle, *image_hw))
    elif not isinstance(segmentation, dict) or tuple(segmentation.get("size", ())) != image_hw:
        return None
    elif isinstance(segmentation["counts"], list):
        rle = coco_mask.frPyObjects(rle, *image_hw)
    return coco_mask.decode(rle)
