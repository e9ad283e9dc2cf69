"""How are a training picture and its boxes changed together, also with other pictures? By named presets of steps.

A mapper applies one preset before its own augmentations. A step sees a `Picture` and may draw others of the data set.
All randomness is numpy's and torch's global generators, which the loader seeds for every sample, so that the n-th
sample of a run is the same after a resume.

Mosaic: Bochkovskiy et al. 2020 (YOLOv4). Mix-up: Zhang et al. 2019 (Bag of freebies). Copy-paste, large-scale jitter:
Ghiasi et al. 2021. Box-keeping crop: Liu et al. 2016 (SSD). The rest are torchvision's transforms v2.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torchvision import tv_tensors
from torchvision.transforms import v2

from dinov2_detrex.data.masks import mask_in_box
from dinov2_detrex.runtime.errors import UsageError, did_you_mean

GREY = 114  # of what no picture covers
MIN_SIDE_PX = 2.0  # smaller boxes are dropped
MIN_VISIBLE = 0.3  # share of a box that a cut or something pasted must leave


@dataclass(frozen=True, eq=False)
class Picture:
    """An image and its objects.

    Attributes:
        pixels: (H, W, 3), uint8, RGB.
        boxes: (N, 4), float, XYXY in pixels.
        classes: (N,), int.
        outlines: COCO's segmentation of each object, None where it has none; empty as soon as a step has changed the
            picture.
    """

    pixels: np.ndarray
    boxes: np.ndarray
    classes: np.ndarray
    outlines: Sequence[Any] = ()

    @property
    def hw(self) -> tuple[int, int]:
        """(height, width)."""
        return self.pixels.shape[0], self.pixels.shape[1]

    def resized(self, height: int, width: int) -> "Picture":
        """Stretched to that size."""
        image = Image.fromarray(self.pixels).resize((width, height), Image.Resampling.BILINEAR)
        scale = np.array([width, height, width, height]) / np.array([*self.hw[::-1]] * 2)
        return Picture(np.asarray(image), self.boxes * scale, self.classes)

    def cut(self, x0: int, y0: int, x1: int, y1: int) -> "Picture":
        """What lies in the window; boxes of which too little is left are dropped."""
        boxes = (self.boxes - [x0, y0, x0, y0]).clip(0, [x1 - x0, y1 - y0] * 2)
        keep = areas(boxes) >= MIN_VISIBLE * areas(self.boxes)
        return Picture(self.pixels[y0:y1, x0:x1], boxes[keep], self.classes[keep]).sound()

    def sound(self) -> "Picture":
        """Without boxes that are too small."""
        keep = (self.boxes[:, 2:] - self.boxes[:, :2] >= MIN_SIDE_PX).all(axis=1)
        return Picture(self.pixels, self.boxes[keep], self.classes[keep])

    def shifted(self, x: float, y: float) -> np.ndarray:
        """The boxes where the picture lies at (x, y) of a larger one."""
        return self.boxes + np.array([x, y, x, y])


DrawPicture = Callable[[], Picture]  # another picture of the data set, at random
Step = Callable[[Picture, DrawPicture], Picture]


def areas(boxes: np.ndarray) -> np.ndarray:
    """(N,) of XYXY boxes (N, 4)."""
    return np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)


@dataclass(frozen=True)
class Sometimes:
    """A step that happens with a probability."""

    p: float
    step: Step

    def __call__(self, picture: Picture, draw: DrawPicture) -> Picture:
        return self.step(picture, draw) if np.random.rand() < self.p else picture


# --------------------------------------------------------------------------------------------- several pictures


def mosaic(picture: Picture, draw: DrawPicture) -> Picture:
    """Four pictures around a random point, on a canvas of the first one's size; each fills its quarter."""
    height, width = picture.hw
    x, y = (np.random.uniform(0.35, 0.65, 2) * [width, height]).astype(int).tolist()
    windows = [(0, 0, x, y), (x, 0, width, y), (0, y, x, height), (x, y, width, height)]
    pixels, boxes, classes = np.empty_like(picture.pixels), [], []
    for source, (x0, y0, x1, y1) in zip([picture, draw(), draw(), draw()], windows):
        piece = _filling(source, y1 - y0, x1 - x0)
        pixels[y0:y1, x0:x1] = piece.pixels
        boxes.append(piece.shifted(x0, y0))
        classes.append(piece.classes)
    return Picture(pixels, np.concatenate(boxes), np.concatenate(classes))


def _filling(picture: Picture, height: int, width: int) -> Picture:
    """A random cut of that size, out of the picture scaled to between what covers the size and 1.5 times that."""
    scale = max(height / picture.hw[0], width / picture.hw[1]) * np.random.uniform(1.0, 1.5)
    large = picture.resized(*(max(round(side * scale), wanted) for side, wanted in zip(picture.hw, (height, width))))
    y0 = np.random.randint(large.hw[0] - height + 1)
    x0 = np.random.randint(large.hw[1] - width + 1)
    return large.cut(x0, y0, x0 + width, y0 + height)


def mix_up(picture: Picture, draw: DrawPicture) -> Picture:
    """The mean of two pictures, the second one stretched to the first one's size; with the boxes of both."""
    other = draw().resized(*picture.hw)
    share = np.random.beta(8.0, 8.0)
    mixed = share * picture.pixels.astype(np.float32) + (1 - share) * other.pixels
    boxes, classes = np.concatenate([picture.boxes, other.boxes]), np.concatenate([picture.classes, other.classes])
    return Picture(mixed.round().astype(np.uint8), boxes, classes).sound()


def copy_paste(picture: Picture, draw: DrawPicture, most: int = 3) -> Picture:
    """Up to `most` objects out of another picture at random places and 0.5 to 1.5 times their size.

    An object is cut out along its mask where the data have one, else with its box. Those of which the pasted ones leave
    too little are dropped.
    """
    other = draw()
    chosen = np.random.permutation(len(other.boxes))[:most]
    for index in chosen.tolist():
        picture = _pasted(picture, other, index)
    return picture


def _pasted(picture: Picture, other: Picture, index: int) -> Picture:
    """The picture with one object of another on top, where that fits."""
    x0, y0, x1, y1 = other.boxes[index].round().astype(int).clip(0, [*other.hw[::-1]] * 2).tolist()
    scale = np.random.uniform(0.5, 1.5)
    height, width = round((y1 - y0) * scale), round((x1 - x0) * scale)
    if min(height, width) < MIN_SIDE_PX or height >= picture.hw[0] or width >= picture.hw[1]:
        return picture
    piece = Image.fromarray(other.pixels[y0:y1, x0:x1]).resize((width, height), Image.Resampling.BILINEAR)
    y, x = np.random.randint(picture.hw[0] - height + 1), np.random.randint(picture.hw[1] - width + 1)
    pixels = picture.pixels.copy()
    window = pixels[y : y + height, x : x + width]
    np.copyto(window, np.asarray(piece), where=_cut_out(other, index, (x0, y0, x1, y1), (height, width)))
    box = np.array([[x, y, x + width, y + height]], dtype=np.float64)
    keep = _uncovered(picture.boxes, box[0]) >= MIN_VISIBLE
    boxes, classes = picture.boxes[keep], picture.classes[keep]
    return Picture(pixels, np.concatenate([boxes, box]), np.concatenate([classes, other.classes[index : index + 1]]))


def _cut_out(picture: Picture, index: int, box: tuple[int, int, int, int], hw: tuple[int, int]) -> np.ndarray:
    """(height, width, 1), bool: what belongs to an object in its box, stretched to that size; all of it without a mask.

    Args:
        picture: the object's.
        index: of the object.
        box: XYXY, whole pixels.
        hw: height and width wanted.
    """
    outline = picture.outlines[index] if len(picture.outlines) else None
    mask = None if outline is None else mask_in_box(outline, picture.hw, box)
    if mask is None:
        return np.ones((*hw, 1), dtype=bool)
    return np.asarray(Image.fromarray(mask).resize((hw[1], hw[0]), Image.Resampling.NEAREST), dtype=bool)[:, :, None]


def _uncovered(boxes: np.ndarray, box: np.ndarray) -> np.ndarray:
    """(N,): the share of each box that lies outside of another one."""
    sides = np.minimum(boxes[:, 2:], box[2:]) - np.maximum(boxes[:, :2], box[:2])
    return 1 - np.prod(sides.clip(0), axis=1) / areas(boxes).clip(1e-9)


# -------------------------------------------------------------------------------------------------- one picture


@dataclass(frozen=True)
class OfTorchvision:
    """A transform v2 of torchvision, which draws from torch's generator; boxes that it leaves empty are dropped."""

    transform: v2.Transform

    def __call__(self, picture: Picture, draw: DrawPicture) -> Picture:
        pixels = torch.from_numpy(np.ascontiguousarray(picture.pixels.transpose(2, 0, 1)))  # H W C -> C H W
        boxes = tv_tensors.BoundingBoxes(torch.from_numpy(picture.boxes), format="XYXY", canvas_size=picture.hw)  # pyright: ignore[reportCallIssue]
        sample = {"image": tv_tensors.Image(pixels), "boxes": boxes, "labels": torch.from_numpy(picture.classes)}
        if not len(picture.boxes) and isinstance(self.transform, v2.RandomIoUCrop):
            return picture  # it looks for a window by its overlap with boxes
        changed = v2.SanitizeBoundingBoxes(min_size=MIN_SIDE_PX)(self.transform(sample))
        image = changed["image"].permute(1, 2, 0).contiguous().numpy()  # C H W -> H W C
        return Picture(image, changed["boxes"].numpy().reshape(-1, 4), changed["labels"].numpy())


def large_scale_jitter(picture: Picture, draw: DrawPicture) -> Picture:
    """Scaled by 0.4 to 1.8, then cut to the size that it had, or laid on grey at a random place."""
    height, width = picture.hw
    scale = np.exp(np.random.uniform(np.log(0.4), np.log(1.8)))
    scaled = picture.resized(max(round(height * scale), 1), max(round(width * scale), 1))
    if scale >= 1:
        y0, x0 = (np.random.randint(side - own + 1) for side, own in zip(scaled.hw, picture.hw))
        return scaled.cut(x0, y0, x0 + width, y0 + height)
    y0, x0 = (np.random.randint(own - side + 1) for side, own in zip(scaled.hw, picture.hw))
    canvas = np.full_like(picture.pixels, GREY)
    canvas[y0 : y0 + scaled.hw[0], x0 : x0 + scaled.hw[1]] = scaled.pixels
    return Picture(canvas, scaled.shifted(x0, y0), picture.classes).sound()


def _colour(strength: float) -> Step:
    return OfTorchvision(v2.ColorJitter(0.4 * strength, 0.4 * strength, 0.5 * strength, 0.05 * strength))


def _blur() -> Step:
    return OfTorchvision(v2.GaussianBlur(5, (0.1, 1.5)))


def _rotation(degrees: float) -> Step:
    return OfTorchvision(v2.RandomRotation((-degrees, degrees), v2.InterpolationMode.BILINEAR, fill=GREY))


def _crop() -> Step:
    return OfTorchvision(v2.RandomIoUCrop(min_scale=0.4))


STEPS: Mapping[str, Callable[[], Step]] = {  # in the order in which they happen
    "copy_paste": lambda: copy_paste,
    "mosaic": lambda: mosaic,
    "mix_up": lambda: mix_up,
    "mild_colour": lambda: _colour(0.6),
    "colour": lambda: _colour(1.0),
    "blur": _blur,
    "rotation": lambda: _rotation(8.0),
    "large_scale_jitter": lambda: large_scale_jitter,
    "crop": _crop,
}
PRESETS: Mapping[str, Mapping[str, float]] = {  # the probability of each step
    "none": {},
    "light": {"mild_colour": 0.5, "blur": 0.1, "crop": 0.5},
    "strong": {
        "copy_paste": 0.3,
        "mosaic": 0.4,
        "mix_up": 0.15,
        "colour": 0.8,
        "blur": 0.15,
        "rotation": 0.2,
        "large_scale_jitter": 0.5,
        "crop": 0.3,
    },
}


def preset(name: str, changes: Mapping[str, float] | None = None) -> Sequence[Step]:
    """The steps of a preset.

    Args:
        name: of `PRESETS`.
        changes: the probability of a step of `STEPS`, over the preset's; 0 for never.

    Raises:
        UsageError: there is no preset or step of that name, or a probability is none.
    """
    if name not in PRESETS:
        raise UsageError(f"mapper.preset={name!r}: there are {', '.join(PRESETS)}{did_you_mean(name, PRESETS)}")
    for step, p in (changes or {}).items():
        _check_step(step, p)
    odds = {**PRESETS[name], **(changes or {})}
    return [Sometimes(odds[step], build()) for step, build in STEPS.items() if odds.get(step)]


def _check_step(step: str, p: Any) -> None:
    if step not in STEPS:
        raise UsageError(f"mapper.step_probabilities: no step {step!r}; the steps are {', '.join(STEPS)}")
    if isinstance(p, bool) or not isinstance(p, int | float) or not 0 <= p <= 1:
        raise UsageError(f"mapper.step_probabilities.{step}={p!r} must be a number from 0 to 1")


def apply(steps: Sequence[Step], picture: Picture, draw: DrawPicture) -> Picture:
    """The picture after all steps, its long side as long as it was: a cut is enlarged again."""
    long_side = max(picture.hw)
    for step in steps:
        picture = step(picture, draw)
    scale = long_side / max(picture.hw)
    return picture if scale == 1 else picture.resized(*(max(round(side * scale), 1) for side in picture.hw))
