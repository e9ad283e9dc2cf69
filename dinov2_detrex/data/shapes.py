"""The shapes data set: how images of simple shapes with exact boxes and outlines are made, in COCO format.

    python -m dinov2_detrex.data.shapes [--root DIR]

Every image has its own random stream, seeded by (seed, split, index), so it does not depend on how many others are
made, and the same arguments give the same bytes. What a detector must not get for nothing is varied: size, place,
tilt, colour and shading of one to five objects, the background, the size and aspect of the image.
"""

import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from dinov2_detrex.data.errors import DatasetError
from dinov2_detrex.data.generated import Recipe, manifest_of, write_data_set
from dinov2_detrex.data.outlines import cross, polygon_area, regular_polygon, rotated, star
from dinov2_detrex.data.painting import contrasting_colour, coverage, paint_background

CLASS_NAMES = ("circle", "triangle", "square")

_GENERATION = 3  # part of the manifest: raise it when the same arguments give other images or annotations
_MAX_OBJECTS = 5
_OBJECT_EXTENT = (0.2, 0.6)  # diameter over the image's short side
_MAX_TILT_RAD = math.radians(20)  # from upright, to either side
_MAX_COVERED = 0.25  # of the smaller of two boxes, so that no object hides another

OUTLINES_XY = {  # corners inside the unit circle, upright where y points down
    "circle": regular_polygon(48),
    "triangle": rotated(regular_polygon(3), -math.pi / 2),
    "square": rotated(regular_polygon(4), math.pi / 4),
    "star": rotated(star(), -math.pi / 2),
    "cross": cross(),
}


# ------------------------------------------------------------------------------------------- what is in an image


def _covered(box: np.ndarray, others: list[np.ndarray]) -> float:
    """The largest intersection of `box` with one of `others`, over the smaller of the two areas; boxes are XYXY."""
    worst = 0.0
    for other in others:
        sides = np.minimum(box[2:], other[2:]) - np.maximum(box[:2], other[:2])
        smaller = min(np.prod(box[2:] - box[:2]), np.prod(other[2:] - other[:2]))
        worst = max(worst, float(np.prod(np.maximum(sides, 0)) / smaller))
    return worst


def _draw_object(rng: np.random.Generator, image_hw: tuple[int, int], class_names: Sequence[str]) -> dict:
    """One object anywhere inside the image: its class, its corners in pixels and their tight box (XYXY)."""
    height, width = image_hw
    low, high = np.log(_OBJECT_EXTENT)
    radius = 0.5 * min(image_hw) * math.exp(rng.uniform(low, high))
    category = int(rng.integers(len(class_names)))
    corners = radius * rotated(OUTLINES_XY[class_names[category]], rng.uniform(-_MAX_TILT_RAD, _MAX_TILT_RAD))
    extent_min, extent_max = corners.min(axis=0), corners.max(axis=0)
    centre = rng.uniform(1 - extent_min, np.array([width, height]) - 1 - extent_max)
    corners = corners + centre
    return {"category": category, "corners": corners, "box": np.concatenate([extent_min + centre, extent_max + centre])}


def _place_objects(rng: np.random.Generator, image_hw: tuple[int, int], class_names: Sequence[str]) -> list[dict]:
    """One to five objects that overlap a little at most; one that finds no room in 20 tries is left out."""
    placed = []
    for _ in range(int(rng.integers(1, _MAX_OBJECTS + 1))):
        for _ in range(20):
            candidate = _draw_object(rng, image_hw, class_names)
            if _covered(candidate["box"], [other["box"] for other in placed]) <= _MAX_COVERED:
                placed.append(candidate)
                break
    return placed


# ------------------------------------------------------------------------------------------------------- painting


def _paint_object(rng: np.random.Generator, canvas: np.ndarray, corners_xy: np.ndarray) -> None:
    """Paint the polygon into `canvas` (H, W, 3): one colour that changes a little from one side to the other."""
    window = np.concatenate([np.floor(corners_xy.min(axis=0)), np.ceil(corners_xy.max(axis=0))]).astype(int)
    x0, y0, x1, y1 = window.tolist()
    covered = coverage([corners_xy], window)[..., None]
    behind = canvas[y0:y1, x0:x1]
    shade = np.linspace(-1, 1, x1 - x0)[None, :, None] * rng.uniform(-30, 30, 3)
    paint = (contrasting_colour(rng, behind.reshape(-1, 3)) + shade).clip(0, 255)
    canvas[y0:y1, x0:x1] = behind + covered * (paint - behind)


def draw_image(
    rng: np.random.Generator, image_size: int, class_names: Sequence[str] = CLASS_NAMES
) -> tuple[Image.Image, list[dict]]:
    """One image and what is in it.

    Args:
        rng: its random stream.
        image_size: the longest side possible; each side is uniform between 3/4 of it and all of it, in pixels.
        class_names: keys of `OUTLINES_XY`.

    Returns:
        the RGB image, and its objects: dicts with "category" (index into `class_names`), "corners" (N, 2) and
        "box" (x0, y0, x1, y1), both in pixels.
    """
    height, width = rng.integers(math.ceil(0.75 * image_size), image_size + 1, 2).tolist()
    objects = _place_objects(rng, (height, width), class_names)
    canvas = paint_background(rng, (height, width))
    for item in objects:
        _paint_object(rng, canvas, item["corners"])
    canvas += rng.normal(0, rng.uniform(0, 6), canvas.shape)
    return Image.fromarray(canvas.clip(0, 255).round().astype(np.uint8)), objects


def generate_shapes(
    root: str | os.PathLike | None = None,
    num_train: int = 4000,
    num_val: int = 300,
    image_size: int = 128,
    seed: int = 0,
    class_names: tuple[str, ...] = CLASS_NAMES,
) -> Path:
    """Write the data set, unless it is there already: `train/`, `val/`, `annotations/instances_{train,val}.json`.

    It is written whole or not at all, see `generated.write_data_set`; other arguments make it anew.

    Args:
        root: its folder, by default `shapes` under $DETECTRON2_DATASETS.
        num_train: number of training images.
        num_val: number of validation images.
        image_size: the longest side possible, in pixels.
        seed: of all random streams.
        class_names: what is drawn, of circle, triangle, square, star and cross; the JSON's category ids count from 1.

    Returns:
        `root` as a path.

    Raises:
        DatasetError: an unknown shape, an image below 32 pixels, or no images.
        FileExistsError: `root` holds something that this function did not make.
    """
    unknown = [name for name in class_names if name not in OUTLINES_XY]
    if unknown or not class_names:
        raise DatasetError(f"class_names={list(class_names)}: known shapes are {', '.join(OUTLINES_XY)}")
    manifest = manifest_of(_GENERATION, num_train, num_val, image_size, seed, least_px=32)
    manifest["class_names"] = list(class_names)

    def draw(rng: np.random.Generator) -> tuple[Image.Image, list[dict]]:
        image, objects = draw_image(rng, image_size, class_names)
        return image, [item | {"area": polygon_area(item["corners"])} for item in objects]

    return write_data_set(root, Recipe("shapes", manifest, class_names, draw))


if __name__ == "__main__":
    from dinov2_detrex.cli import run_command

    sys.exit(run_command("data shapes"))
