"""The augmentations: flips, resizes, crops and colour. Sizes are (height, width) in pixels."""

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
from fvcore.transforms.transform import (
    BlendTransform,
    HFlipTransform,
    NoOpTransform,
    Transform,
    TransformList,
    VFlipTransform,
)

from .augmentation import AugInput, Augmentation, as_augmentation
from .transform import BILINEAR, CropTransform, PadTransform, ResizeTransform


class RandomFlip(Augmentation):
    """Flip with probability `prob`, either horizontally or vertically (ValueError for both or none)."""

    prob: float
    horizontal: bool

    def __init__(self, prob: float = 0.5, *, horizontal: bool = True, vertical: bool = False):
        if horizontal == vertical:
            raise ValueError("RandomFlip needs exactly one of horizontal and vertical; use two of them for both")
        self._init(locals())

    def get_transform(self, image: np.ndarray) -> Transform:
        if self._rand_range() >= self.prob:
            return NoOpTransform()
        h, w = image.shape[:2]
        return HFlipTransform(w) if self.horizontal else VFlipTransform(h)


class RandomApply(Augmentation):
    """Apply an augmentation or transform with probability `prob`."""

    prob: float

    def __init__(self, tfm_or_aug: Augmentation | Transform, prob: float = 0.5):
        assert 0.0 <= prob <= 1.0, f"prob={prob} is not in [0, 1]"
        self.aug = as_augmentation(tfm_or_aug)
        self._init(locals())

    def get_transform(self, *args) -> Transform:
        """What the augmentation chooses for these arrays, or nothing."""
        return self.aug.get_transform(*args) if self._is_applied() else NoOpTransform()

    def __call__(self, aug_input: AugInput) -> Transform:
        return self.aug(aug_input) if self._is_applied() else NoOpTransform()

    def _is_applied(self) -> bool:
        return self._rand_range() < self.prob


class Resize(Augmentation):
    """Resize to a fixed size: an int for a square, or (height, width)."""

    shape: tuple[int, int]
    interp: int

    def __init__(self, shape: int | Sequence[int], interp: int = BILINEAR):
        shape = (shape, shape) if isinstance(shape, int) else tuple(shape)
        self._init(locals())

    def get_transform(self, image: np.ndarray) -> Transform:
        return ResizeTransform(image.shape[0], image.shape[1], *self.shape, self.interp)


class ResizeShortestEdge(Augmentation):
    """Scale so that the short side has a chosen length, or less where the long side would pass `max_size`.

    Args:
        short_edge_length: with sample_style "range" the two ends of a range, both included, or one int; with "choice"
            the lengths to choose from. A length of 0 leaves the image as it is.
        max_size: limit of the long side.
        sample_style: "range" or "choice".
        interp: a resampling of Pillow.
    """

    short_edge_length: tuple[int, ...]
    max_size: int
    interp: int

    def __init__(
        self,
        short_edge_length: int | Sequence[int],
        max_size: int = 2**31 - 1,
        sample_style: str = "range",
        interp: int = BILINEAR,
    ):
        assert sample_style in ("range", "choice"), f"sample_style={sample_style!r} is neither 'range' nor 'choice'"
        if isinstance(short_edge_length, int):
            short_edge_length = (short_edge_length, short_edge_length)
        short_edge_length = tuple(short_edge_length)
        self.is_range = sample_style == "range"
        if self.is_range:
            assert len(short_edge_length) == 2, f"a range has two ends, got short_edge_length={short_edge_length}"
        self._init(locals())

    def get_transform(self, image: np.ndarray) -> Transform:
        lengths = self.short_edge_length
        size = np.random.randint(lengths[0], lengths[1] + 1) if self.is_range else np.random.choice(lengths)
        if size == 0:
            return NoOpTransform()
        h, w = image.shape[:2]
        return ResizeTransform(h, w, *self.get_output_shape(h, w, int(size), self.max_size), self.interp)

    @staticmethod
    def get_output_shape(oldh: int, oldw: int, short_edge_length: int, max_size: int) -> tuple[int, int]:
        """(height, width) after scaling; the exact sides are rounded half up at the end, and 1 at least."""
        scale = short_edge_length / min(oldh, oldw)
        newh, neww = (short_edge_length, scale * oldw) if oldh < oldw else (scale * oldh, short_edge_length)
        shrink = min(1.0, max_size / max(newh, neww))
        return max(1, int(newh * shrink + 0.5)), max(1, int(neww * shrink + 0.5))


class ResizeScale(Augmentation):
    """Fit the image into the target size times a random scale, keeping its aspect ratio (large-scale jitter).

    Args:
        min_scale, max_scale: the scale is uniform in between.
        target_height, target_width: the size at scale 1.
        interp: a resampling of Pillow.
    """

    min_scale: float
    max_scale: float
    target_height: int
    target_width: int
    interp: int

    def __init__(
        self,
        min_scale: float,
        max_scale: float,
        target_height: int,
        target_width: int,
        interp: int = BILINEAR,
    ):
        self._init(locals())

    def get_transform(self, image: np.ndarray) -> Transform:
        scale = self._rand_range(self.min_scale, self.max_scale)
        h, w = image.shape[:2]
        factor = min(scale * self.target_height / h, scale * self.target_width / w)
        new_h, new_w = np.round(np.array([h, w]) * factor).astype(int).tolist()
        return ResizeTransform(h, w, new_h, new_w, self.interp)


class RandomCrop(Augmentation):
    """Cut out a window at a uniformly random position.

    Args:
        crop_type: "relative": the fractions `crop_size` of the image; "relative_range": fractions uniform between
            `crop_size` and 1; "absolute": `crop_size` pixels, or the whole side where it is shorter;
            "absolute_range": each side uniform between the two lengths `crop_size`, both limited to the side.
        crop_size: two numbers.
    """

    TYPES = ("relative", "relative_range", "absolute", "absolute_range")

    crop_type: str
    crop_size: tuple[Any, Any]  # pixels or fractions, as the type says

    def __init__(self, crop_type: str, crop_size: Sequence[float]):
        assert crop_type in self.TYPES, f"crop_type={crop_type!r} is not one of {', '.join(self.TYPES)}"
        crop_size = tuple(crop_size)
        self._init(locals())

    def get_transform(self, image: np.ndarray) -> Transform:
        h, w = image.shape[:2]
        crop_h, crop_w = self.get_crop_size((h, w))
        assert crop_h <= h and crop_w <= w, f"cannot crop {crop_h} x {crop_w} from an image of {h} x {w}"
        y0, x0 = np.random.randint(h - crop_h + 1), np.random.randint(w - crop_w + 1)
        return CropTransform(x0, y0, crop_w, crop_h, orig_w=w, orig_h=h)

    def get_crop_size(self, image_size: tuple[int, int]) -> tuple[int, int]:
        """(height, width) of the window for an image of (height, width)."""
        h, w = image_size
        a, b = self.crop_size
        if self.crop_type == "absolute":
            return min(a, h), min(b, w)
        if self.crop_type == "absolute_range":
            assert a <= b, f"crop_size={self.crop_size} is not a range"
            crop_h, crop_w = (np.random.randint(min(side, a), min(side, b) + 1) for side in (h, w))
            return crop_h, crop_w
        if self.crop_type == "relative_range":
            a, b = (fraction + self._rand_range() * (1 - fraction) for fraction in (a, b))
        return int(h * a + 0.5), int(w * b + 0.5)


class FixedSizeCrop(Augmentation):
    """Cut out at most `crop_size` at a random position, then pad at the right and the bottom to that size.

    Args:
        crop_size: (height, width).
        pad: False leaves smaller images small.
        pad_value, seg_pad_value: of the padding in image and labels.
    """

    crop_size: tuple[int, int]
    pad: bool
    pad_value: float
    seg_pad_value: int

    def __init__(self, crop_size: Sequence[int], pad: bool = True, pad_value: float = 128.0, seg_pad_value: int = 255):
        crop_size = tuple(crop_size)
        self._init(locals())

    def get_transform(self, image: np.ndarray) -> TransformList:
        crop = self._crop(image.shape[:2])
        return TransformList([crop, self._padding(crop)] if self.pad else [crop])

    def _crop(self, image_hw: tuple[int, int]) -> CropTransform:
        h, w = image_hw
        crop_h, crop_w = (min(side, limit) for side, limit in zip(image_hw, self.crop_size))
        position = self._rand_range()  # one number for both axes
        y0, x0 = (int(np.round((side - crop) * position)) for side, crop in ((h, crop_h), (w, crop_w)))
        return CropTransform(x0, y0, crop_w, crop_h, orig_w=w, orig_h=h)

    def _padding(self, crop: CropTransform) -> PadTransform:
        right, below = self.crop_size[1] - crop.w, self.crop_size[0] - crop.h
        return PadTransform(0, 0, right, below, crop.w, crop.h, self.pad_value, self.seg_pad_value)


class RandomContrast(Augmentation):
    """Blend with the mean grey: weight w of the image uniform in [min, max]; 1 changes nothing, below fades."""

    intensity_min: float
    intensity_max: float

    def __init__(self, intensity_min: float, intensity_max: float):
        self._init(locals())

    def get_transform(self, image: np.ndarray) -> Transform:
        w = self._rand_range(self.intensity_min, self.intensity_max)
        return BlendTransform(src_image=image.mean(), src_weight=1 - w, dst_weight=w)


class RandomBrightness(Augmentation):
    """Blend with black: weight w of the image uniform in [min, max]; 1 changes nothing, below darkens."""

    intensity_min: float
    intensity_max: float

    def __init__(self, intensity_min: float, intensity_max: float):
        self._init(locals())

    def get_transform(self, image: np.ndarray) -> Transform:
        w = self._rand_range(self.intensity_min, self.intensity_max)
        black = cast(np.ndarray, 0)  # a number does for an image of one value
        return BlendTransform(src_image=black, src_weight=1 - w, dst_weight=w)


class RandomSaturation(Augmentation):
    """Blend an RGB image with its grey: weight w of the image uniform in [min, max]; below 1 loses colour."""

    LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601

    intensity_min: float
    intensity_max: float

    def __init__(self, intensity_min: float, intensity_max: float):
        self._init(locals())

    def get_transform(self, image: np.ndarray) -> Transform:
        assert image.shape[-1] == 3, f"RandomSaturation works on RGB images, got shape {image.shape}"
        w = self._rand_range(self.intensity_min, self.intensity_max)
        grey = image.dot(self.LUMA)[:, :, None]
        return BlendTransform(src_image=grey, src_weight=1 - w, dst_weight=w)
