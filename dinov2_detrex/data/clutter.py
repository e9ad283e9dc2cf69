"""The clutter data set: how crowded images of small, half hidden figures of many classes are made, without a download.

    dinov2-detrex data clutter [--root DIR]

A harder sister of the shapes. Twelve classes share all colours and differ in form alone; objects are from 8 px to half
of the image's short side, most of them small; they hide each other and are hidden by things that are none of the
classes; some images hold a crowd of one class; the last class is twelve times rarer than the first; images have many
sizes. Boxes are those of what is visible. Every image is a function of (seed, split, index).
"""

import math
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from dinov2_detrex.data.generated import Recipe, manifest_of, write_data_set
from dinov2_detrex.data.outlines import FIGURES, Figure, rotated
from dinov2_detrex.data.painting import contrasting_colour, coverage, paint_background

CLASS_NAMES = tuple(FIGURES)
SMALLEST_PX = 8.0  # diameter of an object before it is hidden

_GENERATION = 1  # part of the manifest: raise it when the same arguments give other images
_SIDES = (0.6, 1.0)  # of an image, over the longest possible
_LARGEST = 0.5  # diameter over the image's short side
_MAX_TILT_RAD = math.radians(20)
_OBJECTS = (2, 9)  # in an image, those of a crowd not counted
_CROWD = (8, 16)
_CROWD_SHARE = 0.2  # of the images
_CLUTTER = (2, 9)  # things of no class in an image
_IN_FRONT_SHARE = 0.3  # of them before the objects, the others behind
_MIN_VISIBLE = 0.45  # of an object's area, or it is not there
_MIN_CONTRAST = 60.0
_TRIES = 12


@dataclass(frozen=True, eq=False)
class _Thing:
    """Something to paint: its class, None for what belongs to none, and its polygons in pixels of the image."""

    category: int | None
    figure: Figure

    @property
    def window(self) -> np.ndarray:
        """XYXY, whole pixels around the edge."""
        edge = self.figure[0]
        return np.concatenate([np.floor(edge.min(axis=0)), np.ceil(edge.max(axis=0))]).astype(int)


def class_shares() -> np.ndarray:
    """(12,): how often each class is drawn, falling as 1, 1/2, 1/3, ..."""
    shares = 1 / np.arange(1, len(CLASS_NAMES) + 1)
    return shares / shares.sum()


# ----------------------------------------------------------------------------------------------- what there may be


def _placed(figure: Figure, diameter_px: float, angle_rad: float, centre_xy: np.ndarray) -> Figure:
    return [diameter_px / 2 * rotated(outline, angle_rad) + centre_xy for outline in figure]


def _anywhere(rng: np.random.Generator, diameter_px: float, image_hw: tuple[int, int]) -> np.ndarray:
    """A centre (x, y) that keeps a circle of that diameter within the image, as far as it fits."""
    low, high = np.full(2, diameter_px / 2 + 1), np.array(image_hw[::-1]) - diameter_px / 2 - 1
    return rng.uniform(low, np.maximum(low, high))


def _diameter(rng: np.random.Generator, largest_px: float) -> float:
    """From `SMALLEST_PX` on, uniform on a logarithmic scale: most are small."""
    return math.exp(rng.uniform(math.log(SMALLEST_PX), math.log(max(largest_px, SMALLEST_PX))))


def _object(rng: np.random.Generator, image_hw: tuple[int, int]) -> _Thing:
    """One object of any class, size and place."""
    category = int(rng.choice(len(CLASS_NAMES), p=class_shares()))
    diameter_px = _diameter(rng, _LARGEST * min(image_hw))
    return _upright(rng, category, diameter_px, _anywhere(rng, diameter_px, image_hw))


def _upright(rng: np.random.Generator, category: int, diameter_px: float, centre_xy: np.ndarray) -> _Thing:
    tilt_rad = rng.uniform(-_MAX_TILT_RAD, _MAX_TILT_RAD)
    return _Thing(category, _placed(FIGURES[CLASS_NAMES[category]], diameter_px, tilt_rad, centre_xy))


def _crowd(rng: np.random.Generator, image_hw: tuple[int, int]) -> list[_Thing]:
    """Many small objects of one class and about one size around one place."""
    category = int(rng.choice(len(CLASS_NAMES), p=class_shares()))
    diameter_px = _diameter(rng, 2.5 * SMALLEST_PX)
    centre_xy, spread_px = _anywhere(rng, 6 * diameter_px, image_hw), 1.6 * diameter_px
    places = rng.normal(centre_xy, spread_px, (int(rng.integers(_CROWD[0], _CROWD[1] + 1)), 2))
    low, high = diameter_px, np.array(image_hw[::-1]) - diameter_px
    return [_upright(rng, category, diameter_px * rng.uniform(0.8, 1.25), place.clip(low, high)) for place in places]


def _nothing(rng: np.random.Generator, image_hw: tuple[int, int]) -> _Thing:
    """Something of no class: a jagged blob, a bar or a bow, anywhere."""
    diameter_px = _diameter(rng, 0.6 * min(image_hw))
    outline = (_blob, _bar, _bow)[rng.integers(3)](rng)
    centre_xy = _anywhere(rng, diameter_px, image_hw)
    return _Thing(None, _placed([outline], diameter_px, rng.uniform(0, 2 * math.pi), centre_xy))


def _blob(rng: np.random.Generator) -> np.ndarray:
    corners = int(rng.integers(7, 13))
    angles = np.sort(rng.uniform(0, 2 * math.pi, corners))
    return np.stack([np.cos(angles), np.sin(angles)], axis=1) * rng.uniform(0.3, 1.0, (corners, 1))


def _bar(rng: np.random.Generator) -> np.ndarray:
    half_width = rng.uniform(0.08, 0.25)
    return np.array([(-0.95, -half_width), (0.95, -half_width), (0.95, half_width), (-0.95, half_width)])


def _bow(rng: np.random.Generator) -> np.ndarray:
    angles, inner = np.linspace(0, rng.uniform(1.0, 2.2), 16), rng.uniform(0.6, 0.85)
    edge = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return np.concatenate([edge, inner * edge[::-1]])


# -------------------------------------------------------------------------------------------------- what one sees


class _Scene:
    """Things from front to back, and which pixels they have taken."""

    def __init__(self, image_hw: tuple[int, int]):
        self.taken, self.things = np.zeros(image_hw, dtype=bool), list[_Thing]()
        self.objects = list[dict]()

    def add(self, thing: _Thing) -> bool:
        """Put something behind all that is there; False for an object of which too little would be seen."""
        height, width = self.taken.shape
        x0, y0, x1, y1 = thing.window.clip(0, [width, height, width, height]).tolist()
        if x1 <= x0 or y1 <= y0:
            return False
        own = coverage(thing.figure, np.array([x0, y0, x1, y1])) > 0.35  # thin tips count as well
        visible = own & ~self.taken[y0:y1, x0:x1]
        if thing.category is not None:
            if visible.sum() < max(_MIN_VISIBLE * own.sum(), 1):
                return False
            rows, columns = np.nonzero(visible.any(axis=1))[0], np.nonzero(visible.any(axis=0))[0]
            box = np.array([x0 + columns[0], y0 + rows[0], x0 + columns[-1] + 1, y0 + rows[-1] + 1], dtype=np.float64)
            self.objects.append({"category": thing.category, "box": box, "area": float(visible.sum())})
        self.taken[y0:y1, x0:x1] |= own
        self.things.append(thing)
        return True


def _compose(rng: np.random.Generator, image_hw: tuple[int, int]) -> _Scene:
    """What an image shows; an object that finds no room in some tries is left out."""
    scene, count = _Scene(image_hw), int(rng.integers(_CLUTTER[0], _CLUTTER[1] + 1))
    in_front = int(rng.binomial(count, _IN_FRONT_SHARE))
    for _ in range(in_front):
        scene.add(_nothing(rng, image_hw))
    if rng.random() < _CROWD_SHARE:
        for thing in _crowd(rng, image_hw):
            scene.add(thing)
    for _ in range(int(rng.integers(_OBJECTS[0], _OBJECTS[1] + 1))):
        any(scene.add(_object(rng, image_hw)) for _ in range(_TRIES))
    for _ in range(count - in_front):
        scene.add(_nothing(rng, image_hw))
    return scene


def _paint(rng: np.random.Generator, canvas: np.ndarray, thing: _Thing) -> None:
    """One colour, or two in stripes, that can be told from what is behind; on `canvas` (H, W, 3)."""
    height, width = canvas.shape[:2]
    x0, y0, x1, y1 = thing.window.clip(0, [width, height, width, height]).tolist()
    covered = coverage(thing.figure, np.array([x0, y0, x1, y1]))[..., None]
    behind = canvas[y0:y1, x0:x1]
    paint = contrasting_colour(rng, behind.reshape(-1, 3), _MIN_CONTRAST)
    if rng.random() < 0.3:
        stripes = np.sin(np.arange(x1 - x0) * rng.uniform(0.3, 1.5))[None, :, None] > 0
        paint = np.where(stripes, paint, paint + rng.uniform(-40, 40, 3)).clip(0, 255)
    canvas[y0:y1, x0:x1] = behind + covered * (paint - behind)


def draw_image(rng: np.random.Generator, image_size: int) -> tuple[Image.Image, list[dict]]:
    """One image and what is in it.

    Args:
        rng: its random stream.
        image_size: the longest side possible; each side is uniform between 0.6 of it and all of it, in pixels.

    Returns:
        the RGB image, and its objects: dicts with "category" (index into `CLASS_NAMES`), "box" (x0, y0, x1, y1) in
        pixels and "area" in square pixels, both of the visible part.
    """
    height, width = rng.integers(math.ceil(_SIDES[0] * image_size), math.floor(_SIDES[1] * image_size) + 1, 2).tolist()
    scene = _compose(rng, (height, width))
    canvas = paint_background(rng, (height, width))
    for thing in reversed(scene.things):
        _paint(rng, canvas, thing)
    canvas += rng.normal(0, rng.uniform(0, 8), canvas.shape)
    image = Image.fromarray(canvas.clip(0, 255).round().astype(np.uint8))
    return image.filter(ImageFilter.GaussianBlur(rng.uniform(0, 0.7))), scene.objects


def generate_clutter(
    root: str | os.PathLike | None = None,
    num_train: int = 4000,
    num_val: int = 400,
    image_size: int = 160,
    seed: int = 0,
) -> Path:
    """Write the data set, unless it is there already, see `generated.write_data_set`.

    Args:
        root: its folder, by default `clutter` under $DETECTRON2_DATASETS.
        num_train: number of training images.
        num_val: number of validation images.
        image_size: the longest side possible, in pixels.
        seed: of all random streams.

    Returns:
        `root` as a path.

    Raises:
        DatasetError: an image below 64 pixels, or no images.
        FileExistsError: `root` holds something that this function did not make.
    """
    manifest = manifest_of(_GENERATION, num_train, num_val, image_size, seed, least_px=64)
    return write_data_set(root, Recipe("clutter", manifest, CLASS_NAMES, lambda rng: draw_image(rng, image_size)))


if __name__ == "__main__":
    from dinov2_detrex.cli import run_command

    sys.exit(run_command("data clutter"))
