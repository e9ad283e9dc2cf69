"""How is a generated data set written? In COCO's form, whole or not at all, with the arguments that made it."""

import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dinov2_detrex.data.errors import DatasetError
from dinov2_detrex.data.paths import datasets_root

SPLITS = ("train", "val")
MANIFEST = "manifest.json"
_JPEG = {"format": "JPEG", "quality": 92, "subsampling": 0}

Object = dict[str, Any]  # "category", an index; "box", XYXY, and perhaps "corners" (N, 2) in pixels; "area"
Draw = Callable[[np.random.Generator], tuple[Image.Image, list[Object]]]  # an image from its own random stream

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Recipe:
    """What makes a data set.

    Attributes:
        name: what it is called.
        manifest: all that its bytes follow from; "counts" {split: images} and "seed" among it.
        class_names: in the order of the objects' categories; the JSON's category ids count from 1.
        draw: makes an image and what is in it.
    """

    name: str
    manifest: dict[str, Any]
    class_names: Sequence[str]
    draw: Draw


def manifest_of(generation: int, num_train: int, num_val: int, image_size: int, seed: int, least_px: int) -> dict:
    """What a data set of two parts follows from.

    Args:
        generation: of the code that draws: another one makes the data anew.
        num_train, num_val: numbers of images.
        image_size: the longest side possible, in pixels.
        seed: of all random streams.
        least_px: the smallest `image_size`.

    Raises:
        DatasetError: a smaller image, or no images.
    """
    if image_size < least_px or min(num_train, num_val) < 1:
        raise DatasetError(f"image_size={image_size} (at least {least_px}), {num_train=}, {num_val=} (at least 1)")
    counts = {"train": int(num_train), "val": int(num_val)}
    return {"generation": generation, "counts": counts, "image_size": int(image_size), "seed": int(seed)}


def write_data_set(root: str | os.PathLike | None, recipe: Recipe) -> Path:
    """Write `train/`, `val/` and `annotations/instances_{train,val}.json`, unless they are there already.

    Image i of a split has the random stream (seed, split, i), so it does not depend on how many others are made. The
    set is written beside `root` and moved there when it is complete, so an interrupted run leaves nothing that passes
    for a data set. The manifest is kept in `manifest.json`; another one makes the set anew.

    Args:
        root: its folder, by default that of the recipe's name under $DETECTRON2_DATASETS.
        recipe: what makes it.

    Returns:
        `root` as a path.

    Raises:
        FileExistsError: `root` holds something else.
    """
    root = Path(root) if root is not None else datasets_root() / recipe.name
    if _read_manifest(root, recipe.name) == recipe.manifest:
        logger.info("the %s data set is in %s", recipe.name, root)
        return root
    counts = recipe.manifest["counts"]
    logger.info("generating %s images of %s in %s", " + ".join(map(str, counts.values())), recipe.name, root)
    root.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{root.name}-partial-", dir=root.parent))
    try:
        partial.chmod(0o755)
        (partial / "annotations").mkdir()
        for split in counts:
            _write_split(partial, split, recipe)
        (partial / MANIFEST).write_text(json.dumps(recipe.manifest, indent=1))
        _put_in_place(partial, root)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return root


def _coco_annotation(annotation_id: int, image_id: int, item: Object) -> dict:
    x0, y0, x1, y1 = item["box"].tolist()
    outlines = {"segmentation": [item["corners"].round(2).ravel().tolist()]} if "corners" in item else {}
    return outlines | {
        "id": annotation_id,
        "image_id": image_id,
        "category_id": item["category"] + 1,
        "bbox": [round(value, 2) for value in (x0, y0, x1 - x0, y1 - y0)],
        "area": round(item["area"], 2),
        "iscrowd": 0,
    }


def _write_split(folder: Path, split: str, recipe: Recipe) -> None:
    (folder / split).mkdir()
    images, annotations = [], []
    for index in range(recipe.manifest["counts"][split]):
        image, objects = recipe.draw(np.random.default_rng([recipe.manifest["seed"], SPLITS.index(split), index]))
        entry = {"id": index + 1, "file_name": f"{index:06d}.jpg", "width": image.width, "height": image.height}
        image.save(folder / split / entry["file_name"], **_JPEG)
        images.append(entry)
        annotations += [_coco_annotation(len(annotations) + 1 + i, entry["id"], o) for i, o in enumerate(objects)]
    document = {
        "info": {"description": recipe.name},
        "images": images,
        "annotations": annotations,
        "categories": [{"id": i + 1, "name": name} for i, name in enumerate(recipe.class_names)],
    }
    (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(document))


def _read_manifest(root: Path, name: str) -> dict | None:
    """What `root` was made from, None if it is absent or empty.

    Raises:
        FileExistsError: the folder holds something else, which must not be replaced.
    """
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return None
    if not (root / MANIFEST).is_file():
        raise FileExistsError(f"{root} exists and was not made by `data {name}` (no {MANIFEST}): give another root")
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
