"""The shapes data set: how images of simple shapes with exact boxes and outlines are made, in COCO format.

    python -m dinov2_detrex.data.shapes [--root DIR]

Every image has its own random stream, seeded by (seed, split, index), so it does not depend on how many others are
made, and the same arguments give the same bytes. What a detector must not get for nothing is varied: size, place,
tilt, colour and shading of one to five objects, the background, the size and aspect of the image.
"""

import json
import logging
import math
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from dinov2_detrex.data.errors import DatasetError
from dinov2_detrex.data.paths import datasets_root

CLASS_NAMES = ("circle", "triangle", "square")
SPLITS = ("train", "val")
MANIFEST = "manifest.json"

_GENERATION = 3  # part of the manifest: raise it when the same arguments give other images or annotations
_JPEG = {"format": "JPEG", "quality": 92, "subsampling": 0}
_SUPERSAMPLE = 3
_MAX_OBJECTS = 5
_OBJECT_EXTENT = (0.2, 0.6)  # diameter over the image's short side
_MAX_TILT_RAD = math.radians(20)  # from upright, to either side
_MAX_COVERED = 0.25  # of the smaller of two boxes, so that no object hides another
_MIN_CONTRAST = 90.0  # distance in RGB, 0..441, between an object and the background behind it

logger = logging.getLogger(__name__)


# ---------------------------------------------------------------------------------------------------- outlines


def _regular_polygon(corners: int) -> np.ndarray:
    angles = 2 * np.pi * np.arange(corners) / corners
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _star() -> np.ndarray:
    return _regular_polygon(10) * np.where(np.arange(10) % 2, 0.45, 1.0)[:, None]


def _cross() -> np.ndarray:
    arm = [(0.3, 1.0), (-0.3, 1.0), (-0.3, 0.3)]
    points = np.array([(x, y) if turn == 0 else _quarter_turns(x, y, turn) for turn in range(4) for x, y in arm])
    return points / np.linalg.norm(points, axis=1).max()


def _quarter_turns(x: float, y: float, turns: int) -> tuple[float, float]:
    for _ in range(turns):
        x, y = -y, x
    return x, y


def _rotated(outline_xy: np.ndarray, angle_rad: float) -> np.ndarray:
    cos, sin = math.cos(angle_rad), math.sin(angle_rad)
    return outline_xy @ np.array([[cos, sin], [-sin, cos]])


OUTLINES_XY = {  # corners inside the unit circle, upright where y points down
    "circle": _regular_polygon(48),
    "triangle": _rotated(_regular_polygon(3), -math.pi / 2),
    "square": _rotated(_regular_polygon(4), math.pi / 4),
    "star": _rotated(_star(), -math.pi / 2),
    "cross": _cross(),
}


def polygon_area(corners_xy: np.ndarray) -> float:
    """Area of a simple polygon (N, 2), by the shoelace formula."""
    x, y = corners_xy.T
    return 0.5 * abs(float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))))


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
    corners = radius * _rotated(OUTLINES_XY[class_names[category]], rng.uniform(-_MAX_TILT_RAD, _MAX_TILT_RAD))
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


def _colour(rng: np.random.Generator) -> np.ndarray:
    return rng.uniform(0, 255, 3)


def _gradient(rng: np.random.Generator, image_hw: tuple[int, int]) -> np.ndarray:
    height, width = image_hw
    angle = rng.uniform(0, 2 * math.pi)
    along = (
        math.cos(angle) * np.linspace(-0.5, 0.5, width)[None]
        + math.sin(angle) * np.linspace(-0.5, 0.5, height)[:, None]
    )
    start = _colour(rng)
    return start + (along[..., None] + 0.5) * (_colour(rng) - start) * rng.uniform(0.2, 1.0)


def _clouds(rng: np.random.Generator, image_hw: tuple[int, int]) -> np.ndarray:
    height, width = image_hw
    cells = int(rng.integers(2, 7))
    coarse = _colour(rng) + rng.normal(0, rng.uniform(10, 45), (cells, cells, 3))
    coarse = Image.fromarray(coarse.clip(0, 255).astype(np.uint8))
    return np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), dtype=np.float64)


def _stripes(rng: np.random.Generator, image_hw: tuple[int, int]) -> np.ndarray:
    height, width = image_hw
    angle, period_px = rng.uniform(0, math.pi), rng.uniform(8, 40)
    along = math.cos(angle) * np.arange(width)[None] + math.sin(angle) * np.arange(height)[:, None]
    wave = np.sin(2 * math.pi * along / period_px)[..., None]
    return _colour(rng) + wave * rng.uniform(-40, 40, 3)


def _paint_background(rng: np.random.Generator, image_hw: tuple[int, int]) -> np.ndarray:
    """A gradient, clouds or stripes, often with a few thin lines over it: (H, W, 3) float, 0..255."""
    painter = (_gradient, _clouds, _stripes)[rng.integers(3)]
    background = painter(rng, image_hw).clip(0, 255)
    if rng.random() < 0.5:
        return background
    image = Image.fromarray(background.astype(np.uint8))
    height, width = image_hw
    for _ in range(int(rng.integers(1, 5))):
        ends = rng.uniform(0, 1, 4) * [width, height, width, height]
        ImageDraw.Draw(image).line(ends.tolist(), fill=tuple(_colour(rng).astype(int).tolist()), width=1)
    return np.asarray(image, dtype=np.float64)


def _contrasting_colour(rng: np.random.Generator, behind: np.ndarray) -> np.ndarray:
    """A random colour at least `_MIN_CONTRAST` away from the mean of the pixels (N, 3) that it will cover."""
    mean = behind.mean(axis=0)
    while True:
        colour = _colour(rng)
        if np.linalg.norm(colour - mean) >= _MIN_CONTRAST:
            return colour


def _coverage(corners_xy: np.ndarray, window_xyxy: np.ndarray) -> np.ndarray:
    """How much of each pixel of the integer window the polygon covers, 0..1, by supersampling: (h, w)."""
    width, height = (window_xyxy[2:] - window_xyxy[:2]).tolist()
    mask = Image.new("L", (width * _SUPERSAMPLE, height * _SUPERSAMPLE))
    local = (corners_xy - window_xyxy[:2]) * _SUPERSAMPLE - 0.5  # Pillow's pixel centres lie at integers
    ImageDraw.Draw(mask).polygon(local.ravel().tolist(), fill=255)
    return np.asarray(mask.resize((width, height), Image.Resampling.BOX), dtype=np.float64) / 255


def _paint_object(rng: np.random.Generator, canvas: np.ndarray, corners_xy: np.ndarray) -> None:
    """Paint the polygon into `canvas` (H, W, 3): one colour that changes a little from one side to the other."""
    window = np.concatenate([np.floor(corners_xy.min(axis=0)), np.ceil(corners_xy.max(axis=0))]).astype(int)
    x0, y0, x1, y1 = window.tolist()
    coverage = _coverage(corners_xy, window)[..., None]
    behind = canvas[y0:y1, x0:x1]
    shade = np.linspace(-1, 1, x1 - x0)[None, :, None] * rng.uniform(-30, 30, 3)
    paint = (_contrasting_colour(rng, behind.reshape(-1, 3)) + shade).clip(0, 255)
    canvas[y0:y1, x0:x1] = behind + coverage * (paint - behind)


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
    canvas = _paint_background(rng, (height, width))
    for item in objects:
        _paint_object(rng, canvas, item["corners"])
    canvas += rng.normal(0, rng.uniform(0, 6), canvas.shape)
    return Image.fromarray(canvas.clip(0, 255).round().astype(np.uint8)), objects


# ------------------------------------------------------------------------------------------------ files on the disk


def _coco_annotation(annotation_id: int, image_id: int, item: dict) -> dict:
    x0, y0, x1, y1 = item["box"].tolist()
    return {
        "id": annotation_id,
        "image_id": image_id,
        "category_id": item["category"] + 1,
        "bbox": [round(value, 2) for value in (x0, y0, x1 - x0, y1 - y0)],
        "area": round(polygon_area(item["corners"]), 2),
        "segmentation": [item["corners"].round(2).ravel().tolist()],
        "iscrowd": 0,
    }


def _write_split(folder: Path, split: str, count: int, image_size: int, seed: int, class_names: Sequence[str]) -> None:
    (folder / split).mkdir()
    images, annotations = [], []
    for index in range(count):
        rng = np.random.default_rng([seed, SPLITS.index(split), index])
        image, objects = draw_image(rng, image_size, class_names)
        entry = {"id": index + 1, "file_name": f"{index:06d}.jpg", "width": image.width, "height": image.height}
        image.save(folder / split / entry["file_name"], **_JPEG)
        images.append(entry)
        annotations += [_coco_annotation(len(annotations) + 1 + i, entry["id"], o) for i, o in enumerate(objects)]
    categories = [{"id": i + 1, "name": name} for i, name in enumerate(class_names)]
    document = {
        "info": {"description": "shapes"},
        "images": images,
        "annotations": annotations,
        "categories": categories,
    }
    (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(document))


def _read_manifest(root: Path) -> dict | None:
    """The arguments that `root` was generated with, None if it is absent or empty.

    Raises:
        FileExistsError: the folder holds something else, which must not be replaced.
    """
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return None
    if not (root / MANIFEST).is_file():
        raise FileExistsError(f"{root} exists and was not made by `generate_shapes` (no {MANIFEST}): give another root")
    return json.loads((root / MANIFEST).read_text())


def _put_in_place(finished: Path, root: Path) -> None:
    """Move the finished folder to `root`; what was there before is moved aside first, then deleted."""
    old = finished.with_name(finished.name + ".old")
    if root.exists():
        os.replace(root, old)
    try:
        os.replace(finished, root)
    except OSError:
        if not (root / MANIFEST).is_file():  # else another process was faster, with a finished set
            raise
    shutil.rmtree(old, ignore_errors=True)


def generate_shapes(
    root: str | os.PathLike | None = None,
    num_train: int = 4000,
    num_val: int = 300,
    image_size: int = 128,
    seed: int = 0,
    class_names: tuple[str, ...] = CLASS_NAMES,
) -> Path:
    """Write the data set, unless it is there already: `train/`, `val/`, `annotations/instances_{train,val}.json`.

    It is written beside `root` and moved there when it is complete, so an interrupted run leaves nothing that passes
    for a data set. The arguments are kept in `manifest.json`; other arguments make it anew.

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
    if image_size < 32 or min(num_train, num_val) < 1:
        raise DatasetError(f"image_size={image_size} (at least 32), {num_train=}, {num_val=} (at least 1)")
    root = Path(root) if root is not None else datasets_root() / "shapes"
    counts = {"train": int(num_train), "val": int(num_val)}
    manifest = {"generation": _GENERATION, "counts": counts, "image_size": int(image_size), "seed": int(seed)}
    manifest["class_names"] = list(class_names)
    if _read_manifest(root) == manifest:
        logger.info("the shapes data set is in %s", root)
        return root

    logger.info("generating %d + %d images of shapes in %s", num_train, num_val, root)
    root.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{root.name}-partial-", dir=root.parent))
    try:
        partial.chmod(0o755)
        (partial / "annotations").mkdir()
        for split, count in counts.items():
            _write_split(partial, split, count, image_size, seed, class_names)
        (partial / MANIFEST).write_text(json.dumps(manifest, indent=1))
        _put_in_place(partial, root)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return root


if __name__ == "__main__":
    from dinov2_detrex.cli import run_command

    sys.exit(run_command("data shapes"))
