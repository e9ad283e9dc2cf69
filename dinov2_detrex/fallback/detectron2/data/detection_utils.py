"""One record at a time: read its image, carry its annotations through transforms, make `Instances` of them."""

import os
from collections.abc import Sequence
from typing import IO, Any, cast

import numpy as np
import torch
from detectron2.data.catalog import MetadataCatalog
from detectron2.structures import BitMasks, Boxes, BoxMode, Instances, PolygonMasks, polygons_to_bitmask
from detectron2.utils.file_io import PathManager
from fvcore.transforms.transform import Transform, TransformList
from PIL import Image, ImageOps
from pycocotools import mask as coco_mask


class SizeMismatchError(ValueError):
    """The image file has another size than its record says."""


def read_image(file_name: str | os.PathLike, format: str | None = None) -> np.ndarray:
    """Read an image upright, as its EXIF orientation says.

    Args:
        file_name: any format that Pillow reads; greys, palettes and transparency are converted.
        format: a mode of Pillow, e.g. "RGB", or "BGR"; None leaves the file's own. 16-bit greys are scaled to 8 bits.

    Returns:
        (H, W, C), uint8 for "RGB" and "BGR"; "L" has C = 1. May be read-only, BGR is a view with a negative stride.

    Raises:
        ValueError: unknown format.
        FileNotFoundError: no such file.
        PIL.UnidentifiedImageError, OSError: it cannot be decoded; the message names the file.
    """
    with PathManager.open(os.fspath(file_name), "rb") as file:
        try:
            picture = _upright(Image.open(cast(IO[bytes], file)))
            picture.load()
        except OSError as error:
            raise type(error)(f"{os.fspath(file_name)} cannot be decoded: {error}") from error
        pixels = np.asarray(_convert(picture, "RGB" if format == "BGR" else format))
    if format == "L":
        pixels = pixels[:, :, None]
    return pixels[:, :, ::-1] if format == "BGR" else pixels


def _upright(picture: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(picture)
    except (SyntaxError, ValueError, KeyError, TypeError):  # a broken EXIF block says nothing; the pixels are fine
        return picture


def _convert(picture: Image.Image, mode: str | None) -> Image.Image:
    if mode is None:
        return picture
    if picture.mode.startswith("I"):  # 16-bit grey, which older Pillows open as "I"
        picture = Image.fromarray((np.asarray(picture) // 257).astype(np.uint8))  # 65535 -> 255
    return picture.convert(mode)


def convert_image_to_rgb(image: np.ndarray | torch.Tensor, format: str) -> np.ndarray:
    """(H, W, C) in a format of `read_image` to RGB (H, W, 3)."""
    pixels = image.cpu().numpy() if isinstance(image, torch.Tensor) else image
    if format == "BGR":
        return pixels[:, :, ::-1]
    if format == "RGB":
        return pixels
    pixels = pixels[:, :, 0] if format == "L" else pixels
    return np.asarray(Image.fromarray(pixels.astype(np.uint8), mode=format).convert("RGB"))


def check_image_size(dataset_dict: dict, image: np.ndarray) -> None:
    """Compare the record's "width" and "height" with the image, and fill in what is absent.

    Raises:
        SizeMismatchError: they differ; names the file and both sizes.
    """
    height, width = image.shape[:2]
    expected = dataset_dict.setdefault("width", width), dataset_dict.setdefault("height", height)
    if expected != (width, height):
        name = dataset_dict.get("file_name", "an image")
        raise SizeMismatchError(f"{name}: the file has (width, height) {(width, height)}, its record says {expected}")


def transform_instance_annotations(
    annotation: dict,
    transforms: Transform | Sequence[Transform],
    image_size: tuple[int, int],
    *,
    keypoint_hflip_indices=None,
) -> dict:
    """Carry box and segmentation of one annotation through the transforms of its image.

    Args:
        annotation: changed: "bbox" becomes float XYXY_ABS, clipped to the image; polygons stay flat polygons, RLE
            becomes a binary mask.
        transforms: one, or a list.
        image_size: (height, width) after the transforms.
        keypoint_hflip_indices: accepted for callers.

    Returns:
        the same dict.

    Raises:
        AssertionError: a transformed mask has another size than the image.
        NotImplementedError: the annotation has keypoints.
    """
    if "keypoints" in annotation:
        raise NotImplementedError("keypoints need the real detectron2; remove them from the annotation")
    if not isinstance(transforms, Transform):
        transforms = TransformList(list(transforms))
    bbox = BoxMode.convert(np.array(annotation["bbox"], dtype=np.float64), annotation["bbox_mode"], BoxMode.XYXY_ABS)
    height, width = image_size
    bbox = transforms.apply_box(bbox[None])[0]
    annotation["bbox"] = np.clip(bbox, 0, [width, height, width, height])
    annotation["bbox_mode"] = BoxMode.XYXY_ABS
    if "segmentation" in annotation:
        annotation["segmentation"] = _transform_segmentation(annotation["segmentation"], transforms, image_size)
    return annotation


def _transform_segmentation(segmentation: list | dict, transforms: Transform, image_size: tuple[int, int]):
    if isinstance(segmentation, list):
        polygons = [np.array(polygon, dtype=np.float64).reshape(-1, 2) for polygon in segmentation]
        return [polygon.reshape(-1) for polygon in transforms.apply_polygons(polygons)]
    mask = transforms.apply_segmentation(coco_mask.decode(cast(Any, segmentation)))
    assert mask.shape[:2] == tuple(image_size), f"a mask of {mask.shape[:2]} in an image of {tuple(image_size)}"
    return mask


def annotations_to_instances(annos: list[dict], image_size: tuple[int, int], mask_format: str = "polygon") -> Instances:
    """`Instances` from transformed annotations of one image, which may be none.

    Args:
        annos: what `transform_instance_annotations` returns.
        image_size: (height, width).
        mask_format: "polygon" or "bitmask", for annotations with segmentation.

    Returns:
        fields gt_boxes, gt_classes (int64), and gt_masks if the first annotation has a segmentation.
    """
    boxes = [BoxMode.convert(anno["bbox"], anno["bbox_mode"], BoxMode.XYXY_ABS) for anno in annos]
    target = Instances(image_size)
    target.gt_boxes = Boxes(np.stack(boxes) if boxes else torch.zeros(0, 4))
    target.gt_classes = torch.tensor([int(anno["category_id"]) for anno in annos], dtype=torch.int64)
    if annos and "segmentation" in annos[0]:
        target.gt_masks = _masks([anno["segmentation"] for anno in annos], image_size, mask_format)
    return target


def _masks(segmentations: list, image_size: tuple[int, int], mask_format: str) -> PolygonMasks | BitMasks:
    if mask_format == "bitmask":
        return BitMasks(np.stack([_bitmask(segmentation, image_size) for segmentation in segmentations]))
    assert mask_format == "polygon", f"mask_format={mask_format!r} is neither 'polygon' nor 'bitmask'"
    try:
        return PolygonMasks(segmentations)
    except ValueError as error:
        raise ValueError(f"segmentations that are not all polygons need mask_format='bitmask' ({error})") from error


def _bitmask(segmentation: list | dict | np.ndarray, image_size: tuple[int, int]) -> np.ndarray:
    if isinstance(segmentation, list):
        return polygons_to_bitmask(segmentation, *image_size)
    mask = coco_mask.decode(cast(Any, segmentation)) if isinstance(segmentation, dict) else segmentation
    assert mask.ndim == 2, f"a mask is (H, W), got {mask.shape}"
    return mask.astype(bool)


def filter_empty_instances(
    instances: Instances,
    by_box: bool = True,
    by_mask: bool = True,
    box_threshold: float = 1e-5,
    return_mask: bool = False,
) -> Instances | tuple[Instances, torch.Tensor]:
    """Leave out objects whose box has a side of at most `box_threshold` pixels, or whose mask is empty.

    Returns:
        the filtered instances; with `return_mask` also (N,) bool, True for what was kept.
    """
    assert by_box or by_mask, "nothing to filter by: set by_box or by_mask"
    kept = torch.ones(len(instances.gt_boxes), dtype=torch.bool)
    if by_box:
        kept &= instances.gt_boxes.nonempty(threshold=box_threshold)
    if by_mask and instances.has("gt_masks"):
        kept &= instances.gt_masks.nonempty()
    return (instances[kept], kept) if return_mask else instances[kept]


def check_metadata_consistency(key: str, dataset_names: list[str]) -> None:
    """ValueError unless all data sets have the same `key` in their metadata."""
    assert dataset_names, "expected at least one data set"
    first = getattr(MetadataCatalog.get(dataset_names[0]), key)
    for name in dataset_names[1:]:
        other = getattr(MetadataCatalog.get(name), key)
        if other != first:
            raise ValueError(f"data sets {dataset_names[0]!r} and {name!r} differ in {key!r}: {first} and {other}")
