"""How are a training picture and its boxes changed together, also with other pictures? By named presets of steps.

A mapper applies one preset before its own augmentations. A step sees a `Picture` and may draw others of the data set.
All randomness is numpy's and torch's global generators, which the loader seeds for every sample, so that the n-th
sample of a run is the same after a resume.

Mosaic: Bochkovskiy et al. 2020 (YOLOv4). Mix-up: Zhang et al. 2019 (Bag of freebies). Copy-paste, large-scale jitter:
Ghiasi et al. 2021. Box-keeping crop: Liu et al. 2016 (SSD). The rest are torchvision's transforms v2.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torchvision import tv_tensors
from torchvision.transforms import v2

from dinov2_detrex.data.masks import mask_in_box
from dinov2_detrex.runtime.errors import UsageError, did_you_mean

GREY = 114  # of what no picture covers
GROUND: Any = {tv_tensors.Image: GREY, "others": 0}  # of a kind that the annotations of torchvision do not know
MIN_SIDE_PX = 2.0  # smaller boxes are dropped
MIN_VISIBLE = 0.3  # share of a box that a cut or something pasted must leave


@dataclass(frozen=True, eq=False)
class Picture:
    """An image and its objects.

    Attributes:
        pixels: (H, W, 3), uint8, RGB.
        boxes: (N, 4), float, XYXY in pixels.
        classes: (N,), int.
        masks: (N, H, W), uint8, 1 on the object and 0 elsewhere; None where masks are not asked for.
        outlines: without `masks`, COCO's segmentation of each object, None where it has none, by which objects are cut
            out; empty as soon as a step has changed the picture.
    """

    pixels: np.ndarray
    boxes: np.ndarray
    classes: np.ndarray
    masks: np.ndarray | None = None
    outlines: Sequence[Any] = ()

    @property
    def hw(self) -> tuple[int, int]:
        """(height, width)."""
        return self.pixels.shape[0], self.pixels.shape[1]

    def resized(self, height: int, width: int) -> "Picture":
        """Stretched to that size."""
        image = Image.fromarray(self.pixels).resize((width, height), Image.Resampling.BILINEAR)
        scale = np.array([width, height, width, height]) / np.array([*self.hw[::-1]] * 2)
        masks = None if self.masks is None else _stretched(self.masks, height, width)
        return Picture(np.asarray(image), self.boxes * scale, self.classes, masks)

    def cut(self, x0: int, y0: int, x1: int, y1: int) -> "Picture":
        """What lies in the window; objects of whose box too little is left are dropped."""
        boxes = (self.boxes - [x0, y0, x0, y0]).clip(0, [x1 - x0, y1 - y0] * 2)
        masks = None if self.masks is None else self.masks[:, y0:y1, x0:x1]
        inside = Picture(self.pixels[y0:y1, x0:x1], boxes, self.classes, masks)
        return inside.chosen(areas(boxes) >= MIN_VISIBLE * areas(self.boxes)).sound()

    def laid(self, canvas: np.ndarray, x: int, y: int) -> "Picture":
        """Painted onto a canvas (H, W, 3) at (x, y), where it fits; the canvas is changed."""
        height, width = self.hw
        canvas[y : y + height, x : x + width] = self.pixels
        masks = None
        if self.masks is not None:
            masks = np.zeros((len(self.masks), *canvas.shape[:2]), np.uint8)
            masks[:, y : y + height, x : x + width] = self.masks
        return Picture(canvas, self.boxes + np.array([x, y, x, y]), self.classes, masks)

    def sound(self) -> "Picture":
        """Without objects whose boxes are too small."""
        return self.chosen(np.min(self.boxes[:, 2:] - self.boxes[:, :2], axis=1) >= MIN_SIDE_PX)

    def chosen(self, keep: np.ndarray) -> "Picture":
        """With the objects at these places, or those that a mask (N,) tells."""
        masks = None if self.masks is None else self.masks[keep]
        return Picture(self.pixels, self.boxes[keep], self.classes[keep], masks)

    def joined(self, *others: "Picture") -> "Picture":
        """With the objects of other pictures of its size, which have masks if it has."""
        pictures = (self, *others)
        boxes, classes = (np.concatenate([getattr(p, name) for p in pictures]) for name in ("boxes", "classes"))
        masks = None if self.masks is None else np.concatenate([p.masks for p in pictures if p.masks is not None])
        return Picture(self.pixels, boxes, classes, masks)


def _stretched(masks: np.ndarray, height: int, width: int) -> np.ndarray:
    """Masks (N, H, W) at another size."""
    resized = [Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST) for mask in masks]
    return np.array(resized, dtype=np.uint8).reshape(-1, height, width)


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
    canvas, pieces = np.empty_like(picture.pixels), []
    for source, (x0, y0, x1, y1) in zip([picture, draw(), draw(), draw()], windows):
        pieces.append(_filling(source, y1 - y0, x1 - x0).laid(canvas, x0, y0))
    return pieces[0].joined(*pieces[1:])


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
    return replace(picture.joined(other), pixels=mixed.round().astype(np.uint8)).sound()


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
    window = np.s_[y : y + height, x : x + width]
    shape = _cut_out(other, index, (x0, y0, x1, y1), (height, width))
    np.copyto(pixels[window], np.asarray(piece), where=shape[:, :, None])
    mask = None
    if picture.masks is not None:
        mask = np.zeros((1, *picture.hw), np.uint8)
        mask[0][window] = shape
        picture = replace(picture, masks=picture.masks * (1 - mask))
    box = np.array([[x, y, x + width, y + height]], dtype=np.float64)
    pasted = Picture(pixels, box, other.classes[index : index + 1], mask)
    left = picture.chosen(_uncovered(picture.boxes, box[0]) >= MIN_VISIBLE)
    return replace(left, pixels=pixels).joined(pasted)


def _cut_out(picture: Picture, index: int, box: tuple[int, int, int, int], hw: tuple[int, int]) -> np.ndarray:
    """(height, width), bool: what belongs to an object in its box, stretched to that size; all of it without a mask.

    Args:
        picture: the object's.
        index: of the object.
        box: XYXY, whole pixels.
        hw: height and width wanted.
    """
    x0, y0, x1, y1 = box
    if picture.masks is not None:
        mask = picture.masks[index, y0:y1, x0:x1]
    else:
        outline = picture.outlines[index] if len(picture.outlines) else None
        mask = None if outline is None else mask_in_box(outline, picture.hw, box)
    return np.ones(hw, dtype=bool) if mask is None else _stretched(mask[None], *hw)[0].astype(bool)


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
        if picture.masks is not None:
            sample["masks"] = tv_tensors.Mask(torch.from_numpy(np.ascontiguousarray(picture.masks)))
        if not len(picture.boxes) and isinstance(self.transform, v2.RandomIoUCrop):
            return picture  # it looks for a window by its overlap with boxes
        changed = v2.SanitizeBoundingBoxes(min_size=MIN_SIDE_PX)(self.transform(sample))
        image = changed["image"].permute(1, 2, 0).contiguous().numpy()  # C H W -> H W C
        masks = changed["masks"].numpy() if "masks" in changed else None
        return Picture(image, changed["boxes"].numpy().reshape(-1, 4), changed["labels"].numpy(), masks)


def large_scale_jitter(picture: Picture, draw: DrawPicture) -> Picture:
    """Scaled by 0.4 to 1.8, then cut to the size that it had, or laid on grey at a random place."""
    height, width = picture.hw
    scale = np.exp(np.random.uniform(np.log(0.4), np.log(1.8)))
    scaled = picture.resized(max(round(height * scale), 1), max(round(width * scale), 1))
    if scale >= 1:
        y0, x0 = (np.random.randint(side - own + 1) for side, own in zip(scaled.hw, picture.hw))
        return scaled.cut(x0, y0, x0 + width, y0 + height)
    y0, x0 = (np.random.randint(own - side + 1) for side, own in zip(scaled.hw, picture.hw))
    return scaled.laid(np.full_like(picture.pixels, GREY), x0, y0).sound()


def _colour(strength: float) -> Step:
    return OfTorchvision(v2.ColorJitter(0.4 * strength, 0.4 * strength, 0.5 * strength, 0.05 * strength))


def _blur() -> Step:
    return OfTorchvision(v2.GaussianBlur(5, (0.1, 1.5)))


def _rotation(degrees: float) -> Step:
    return OfTorchvision(v2.RandomRotation((-degrees, degrees), v2.InterpolationMode.BILINEAR, fill=GROUND))


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
