"""How a data set record becomes a model input: DETR's two augmentation lists, and files of any kind read right.

detrex's `DetrDatasetMapper`, with these additions: grey, CMYK, palette, 16-bit and EXIF-rotated files become the 8-bit
image that one sees; a file that cannot be decoded, or is of another size than its record says, is an error that names
it; box coordinates that are integers in the JSON are not truncated by resizing; masks in the form that the model wants.
"""

import copy
import itertools
import logging
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from detectron2.data import detection_utils
from detectron2.data import transforms as T
from detectron2.structures import BoxMode, Instances
from pycocotools import mask as coco_mask

from dinov2_detrex.data import augmenting
from dinov2_detrex.data.errors import DatasetError
from dinov2_detrex.data.image_reading import read_image
from dinov2_detrex.data.masks import mask_of
from dinov2_detrex.runtime.errors import UsageError, one_line

logger = logging.getLogger(__name__)

_WITHOUT_MASK = "leave it out, or let it be ignored with iscrowd=1"


class Records(Protocol):
    """Data set dicts by index."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> dict[str, Any]: ...


class DetrDatasetMapper:
    """Map a data set dict to a model input.

    Args:
        augmentation: augmentations or transforms of detectron2.
        augmentation_with_crop: a second list; each training image takes one of the two, with probability 1/2 each.
            None: always the first.
        is_train: False removes the annotations and makes no instances.
        mask_on: keep segmentations, as `gt_masks`, which every object then must have.
        img_format: channel order of "image": "RGB", "BGR" or "L".
        mask_format: with `mask_on`, what the masks are: "polygon", for data without RLE; or "bitmask", which takes
            polygons and RLE side by side, for a byte a pixel and object.
        recompute_boxes: with `mask_on`, take the boxes around the masks, which a crop leaves tighter than the old ones.
        preset: what happens to picture and boxes before that, one of `augmenting.PRESETS`: "none", "light" or "strong".
            Mosaic, mix-up and copy-paste take their other pictures from the data set, where the loader maps by
            `map_sample`, and from the record itself otherwise.
        preset_epochs: the preset ends after so many passes over the data; None: never.
        step_probabilities: of single steps, over those of the preset, e.g. {"mosaic": 0.5, "rotation": 0}; the names
            are those of `augmenting.STEPS`.

    Augmentations of the lists see the image alone, not its boxes, and draw from numpy's global generator.

    Raises:
        ValueError: another `mask_format`.
        UsageError: an unknown preset or step, or one beside grey images, `is_train=False` or masks as polygons.
    """

    def __init__(
        self,
        augmentation: Sequence,
        augmentation_with_crop: Sequence | None,
        is_train: bool = True,
        mask_on: bool = False,
        img_format: str = "RGB",
        mask_format: str = "polygon",
        recompute_boxes: bool = False,
        preset: str = "none",
        preset_epochs: float | None = None,
        step_probabilities: Mapping[str, float] | None = None,
    ):
        if mask_format not in ("polygon", "bitmask"):
            raise ValueError(f"mask_format={mask_format!r} must be 'polygon' or 'bitmask'")
        self.augmentation = list(augmentation)
        self.augmentation_with_crop = None if augmentation_with_crop is None else list(augmentation_with_crop)
        self.is_train = is_train
        self.mask_on = mask_on
        self.img_format = img_format
        self.mask_format = mask_format
        self.recompute_boxes = recompute_boxes
        self.preset, self.preset_epochs = preset, preset_epochs
        self._steps = augmenting.preset(preset, step_probabilities)
        if self._steps:
            _check_goes_with(preset, is_train, img_format)
            if mask_on and mask_format != "bitmask":
                wanted = "set dataloader.train.mapper.mask_format=bitmask"
                raise UsageError(f"mapper.preset={preset} changes masks pixel by pixel: {wanted}")
        logger.info("augmentations: %s, with crop: %s", self.augmentation, self.augmentation_with_crop)

    def __call__(self, dataset_dict: dict) -> dict:
        """The record plus "image" (uint8, C H W) and in training, where it has annotations, "instances".

        The argument is not changed. Raises OSError for a file that cannot be decoded and `SizeMismatchError` for one of
        another size than the record says and `DatasetError` for one that the transforms cannot handle; all name it.
        """
        if self._steps:
            return self.map_sample([dataset_dict], 0, 0.0)
        dataset_dict = copy.deepcopy(dataset_dict)
        return self._model_input(dataset_dict, _read(dataset_dict, self.img_format))

    @property
    def takes_records(self) -> bool:
        """True where a preset may need other records of the data set: then a loader calls `map_sample`."""
        return bool(self._steps)

    def map_sample(self, records: Records, index: int, epoch: float) -> dict:
        """The same for a record of a data set, others of which may come into the picture.

        Args:
            records: the data set.
            index: of the record.
            epoch: passes over the data up to this sample.
        """
        record = copy.deepcopy(records[index])
        if not self._steps or self.preset_epochs is not None and epoch >= self.preset_epochs:
            return self._model_input(record, _read(record, self.img_format))
        others = (records[np.random.randint(len(records))] for _ in itertools.count())
        picture = augmenting.apply(self._steps, self._picture_of(record), lambda: self._picture_of(dict(next(others))))
        record["annotations"] = _annotations_of(picture)
        return self._model_input(record, picture.pixels[:, :, ::-1] if self.img_format == "BGR" else picture.pixels)

    def map_pixels(self, dataset_dict: dict, pixels: np.ndarray) -> dict:
        """What the mapper makes of a picture that has been read.

        Args:
            dataset_dict: the record, which is changed and returned; "file_name" is for messages.
            pixels: uint8 (H, W, C), upright, in the channel order `img_format`.
        """
        _check_size(dataset_dict, pixels)
        return self._model_input(dataset_dict, pixels)

    def _model_input(self, dataset_dict: dict, pixels: np.ndarray) -> dict:
        """The record, which is changed, as model input, from its picture (H, W, C)."""
        augmented = T.AugInput(pixels)
        transforms = self._augmented(augmented, dataset_dict["file_name"])
        pixels = np.asarray(augmented.image)
        dataset_dict["image"] = torch.as_tensor(np.ascontiguousarray(pixels.transpose(2, 0, 1)))  # H W C -> C H W

        if not self.is_train:
            dataset_dict.pop("annotations", None)
        elif "annotations" in dataset_dict:
            annotations = dataset_dict.pop("annotations")
            if self.mask_on:
                _require_masks(annotations, self.mask_format, dataset_dict["file_name"])
            dataset_dict["instances"] = self._instances(annotations, transforms, pixels.shape[:2])
        return dataset_dict

    def _augmented(self, augmented: T.AugInput, file_name: str) -> T.TransformList:
        """Apply an augmentation list; DatasetError with the file's name where the picture's shape does not allow it."""
        height, width = augmented.image.shape[:2]
        try:
            transforms = augmented.apply_augmentations(self._choose_augmentation())
            empty = 0 in np.shape(augmented.image)
        except (ValueError, AssertionError, ArithmeticError) as error:
            reason = f"{one_line(error)} (--debug shows where)"
            raise DatasetError(f"{file_name}: {width} x {height} pixels cannot be transformed: {reason}") from error
        if empty:
            raise DatasetError(f"{file_name}: of {width} x {height} pixels the transforms leave none")
        return transforms

    def _picture_of(self, record: dict) -> augmenting.Picture:
        """A record's image with its objects, crowds left out, and where they are asked for their masks."""
        pixels = _read(record, "RGB")
        objects = [annotation for annotation in record.get("annotations", []) if annotation.get("iscrowd", 0) == 0]
        boxes = [BoxMode.convert(list(map(float, a["bbox"])), a["bbox_mode"], BoxMode.XYXY_ABS) for a in objects]
        boxes = np.array(boxes, dtype=np.float64).reshape(-1, 4)
        classes = np.array([a["category_id"] for a in objects], dtype=np.int64)
        outlines = [annotation.get("segmentation") for annotation in objects]
        if not self.mask_on:
            return augmenting.Picture(pixels, boxes, classes, outlines=outlines)
        _require_masks(objects, self.mask_format, record["file_name"])
        height, width = pixels.shape[:2]
        masks = np.zeros((len(objects), height, width), np.uint8)
        for place, annotation in enumerate(objects):
            found = mask_of(annotation["segmentation"], (height, width))
            if found is None:
                where = f"{record['file_name']}: the object with the box {annotation['bbox']}"
                raise DatasetError(f"{where} has no sound segmentation of {width} x {height} pixels; {_WITHOUT_MASK}")
            masks[place] = found
        return augmenting.Picture(pixels, boxes, classes, masks)

    def _choose_augmentation(self) -> list:
        if self.augmentation_with_crop is None or np.random.rand() < 0.5:
            return self.augmentation
        return self.augmentation_with_crop

    def _instances(self, annotations: list[dict], transforms: T.TransformList, image_hw: tuple[int, int]) -> Instances:
        """`Instances` of what is left of the objects in the augmented image; possibly none."""
        transformed = [
            detection_utils.transform_instance_annotations(self._trimmed(annotation), transforms, image_hw)
            for annotation in annotations
            if annotation.get("iscrowd", 0) == 0
        ]
        instances = detection_utils.annotations_to_instances(transformed, image_hw, self.mask_format)
        if self.recompute_boxes and instances.has("gt_masks"):
            instances.gt_boxes = instances.gt_masks.get_bounding_boxes()
        instances = detection_utils.filter_empty_instances(instances)
        assert isinstance(instances, Instances)  # a tuple only where a mask is asked for
        return instances

    def _trimmed(self, annotation: dict) -> dict:
        """Without what is not asked for, and with the box in floating point."""
        dropped = {"keypoints"} if self.mask_on else {"keypoints", "segmentation"}
        kept = {key: value for key, value in annotation.items() if key not in dropped}
        return kept | {"bbox": [float(value) for value in annotation["bbox"]]}


def _require_masks(annotations: list[dict], mask_format: str, file_name: str) -> None:
    """DatasetError for an object whose mask is missing, or of a kind that the format does not take."""
    for annotation in annotations:
        if annotation.get("iscrowd", 0):
            continue
        segmentation, where = (
            annotation.get("segmentation"),
            f"{file_name}: the object with the box {annotation['bbox']}",
        )
        if not segmentation:
            raise DatasetError(f"{where} has no segmentation, which training on masks needs; {_WITHOUT_MASK}")
        if mask_format == "polygon" and isinstance(segmentation, dict):
            raise DatasetError(f"{where} has an RLE mask: set dataloader.train.mapper.mask_format=bitmask")


def _check_goes_with(preset: str, is_train: bool, img_format: str) -> None:
    """UsageError for what a preset does not go with."""
    clashes = {"is_train=False": not is_train, f"img_format={img_format}": img_format == "L"}
    for clash in (text for text, given in clashes.items() if given):
        raise UsageError(
            f"mapper.preset={preset} does not go with {clash}: presets change pictures in colour and boxes"
        )


def _read(record: dict, img_format: str) -> np.ndarray:
    """The pixels (H, W, C) of a record's file; SizeMismatchError where they are not as many as it says."""
    pixels = read_image(record["file_name"], img_format)
    _check_size(record, pixels)
    return pixels


def _annotations_of(picture: augmenting.Picture) -> list[dict]:
    pairs = zip(picture.boxes.tolist(), picture.classes.tolist())
    found = [{"bbox": box, "bbox_mode": BoxMode.XYXY_ABS, "category_id": label, "iscrowd": 0} for box, label in pairs]
    for annotation, mask in zip(found, () if picture.masks is None else picture.masks):
        annotation["segmentation"] = coco_mask.encode(np.asfortranarray(mask))
    return found


def _check_size(dataset_dict: dict, pixels: np.ndarray) -> None:
    """Fill in a height or width that the record lacks, then let detectron2 compare."""
    dataset_dict.setdefault("height", pixels.shape[0])
    dataset_dict.setdefault("width", pixels.shape[1])
    detection_utils.check_image_size(dataset_dict, pixels)
