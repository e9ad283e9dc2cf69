"""What is wrong with a data set, found before the first training step.

    report = check_source(read_source("train.json", "images"))
    print(report.summary())
    report.raise_if_harmful()

Harmful is what would train or evaluate on wrong data, or end a run in its middle: it is collected, and raised as one
error. Harmless is what has one obvious repair: `report.repaired` holds the repaired document, the report counts. Of the
image files only the headers and the last bytes are read, in threads; damage in the middle of a file shows when it is
decoded, and then the mapper names the file.
"""

import math
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from dinov2_detrex.data.errors import DatasetError
from dinov2_detrex.data.image_reading import open_upright, read_stored_hw, upright_image_hw
from dinov2_detrex.data.source import DataSource, Document, read_source

_READERS = 16
_BORDER_PX = 1.0  # a box may reach this far beyond its image: rounding
_FORMAT_SHARE, _FORMAT_COUNT = 0.2, 3  # so many boxes must leave the image as XYWH before another format is suspected
_TAIL_BYTES = 4096
_END_MARKS = {b"\xff\xd8\xff": b"\xff\xd9", b"\x89PN": b"IEND\xaeB`\x82"}  # JPEG's and PNG's, by their first bytes
_SHOWN = 3


@dataclass
class DatasetReport:
    """What `check_source` found.

    Attributes:
        json_file: the checked annotations: the JSON, or the file or folder of another format.
        num_images: images in it.
        num_annotations: annotations in it.
        harmful: sentences that name file and id, in the order of finding.
        harmless: what was repaired or skipped -> how often.
        notes: what is unusual but may be meant.
        repaired: the document in COCO's form after the repairs.
    """

    json_file: str
    num_images: int = 0
    num_annotations: int = 0
    harmful: list[str] = field(default_factory=list)
    harmless: Counter = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)
    repaired: dict = field(default_factory=dict)

    def summary(self) -> str:
        """One line for the log."""
        remarks = [f"{len(self.harmful)} errors"] if self.harmful else []
        remarks += [f"{count} {what}" for what, count in self.harmless.items()] + self.notes
        size = f"{self.num_images} images, {self.num_annotations} annotations"
        return f"{self.json_file}: {size}; {'; '.join(remarks) or 'nothing to complain of'}"

    def raise_if_harmful(self) -> None:
        """Raise one DatasetError with the first findings and the number of the others."""
        if self.harmful:
            others = len(self.harmful) - _SHOWN
            more = f"; and {others} more" if others > 0 else ""
            raise DatasetError(f"{self.json_file}: {'; '.join(self.harmful[:_SHOWN])}{more}")


def check_source(
    source: DataSource, skip_bad_images: bool = False, classes_from: DataSource | None = None
) -> DatasetReport:
    """Check the annotations of a data set and the image files that they name.

    Harmful: images that are missing, unreadable, truncated or of another size than the annotations say; boxes that are
    no four finite numbers, or (many of them) in another format than XYWH; unknown category ids; duplicate image or
    category ids; missing keys. Harmless: boxes without area or outside their image (skipped) or reaching beyond it
    (clipped); annotations of images that are not listed (skipped); annotation ids that are missing, duplicate or 0
    (numbered anew: pycocotools takes a match with id 0 for none); missing `area`, `iscrowd`, image sizes (filled in);
    `ignore` (made `iscrowd`); segmentations without a valid polygon (removed, so that the box stays).

    Args:
        source: with an image folder.
        skip_bad_images: count images that are missing, unreadable or of another size as harmless and skip them.
        classes_from: the training data, for validation data, which must have the same classes: other ids or names are
            harmful, absent and unused categories are put right.

    Raises:
        DatasetError: it cannot be read at all, or its image folder is not known.
    """
    if source.image_root is None:
        raise DatasetError(f"{source.path}: the folder of its images is not given")
    document = source.load()
    images, annotations = document["images"], document.get("annotations", [])
    report = DatasetReport(source.path, len(images), len(annotations))
    _check_categories(document["categories"], annotations, report)
    if classes_from is not None and not report.harmful:
        document = _with_classes_of(classes_from, document, report)
    images = _check_images(images, Path(source.image_root), skip_bad_images, report)
    annotations = _check_annotations(annotations, {entry["id"]: entry for entry in images}, document, report)
    report.repaired = {"info": {}} | document | {"images": images, "annotations": annotations}
    return report


def check_coco_dataset(
    json_file: str | os.PathLike[str],
    image_root: str | os.PathLike[str],
    skip_bad_images: bool = False,
    classes_from: str | os.PathLike[str] | None = None,
) -> DatasetReport:
    """`check_source` for paths: of an instances JSON, or of the annotations of any known format, and of its images.

    Raises:
        DatasetNotFoundError: there are no such annotations.
        DatasetError: they are of no known format, or not readable at all.
    """
    training = None if classes_from is None else read_source(classes_from)
    return check_source(read_source(json_file, image_root), skip_bad_images, training)


def _duplicates(values: Iterable[Any]) -> list[Any]:
    return [value for value, count in Counter(values).items() if count > 1]


# ----------------------------------------------------------------------------------------------------- categories


def _check_categories(categories: list[dict], annotations: list[dict], report: DatasetReport) -> None:
    incomplete = [entry for entry in categories if not {"id", "name"} <= entry.keys()]
    report.harmful += [f"category {entry} has no id or no name" for entry in incomplete]
    if incomplete:
        return
    known = [entry["id"] for entry in categories]
    if not known:
        report.harmful.append("the list of categories is empty")
    report.harmful += [f"category id {value} occurs more than once" for value in _duplicates(known)]
    report.notes += [f"category name {name!r} occurs twice" for name in _duplicates(c["name"] for c in categories)]
    used = Counter(annotation.get("category_id") for annotation in annotations)
    for unknown in [value for value in used if value not in known]:
        example = next(a for a in annotations if a.get("category_id") == unknown)
        report.harmful.append(
            f"category id {unknown} of {used[unknown]} annotations is unknown (the first: annotation "
            f"{example.get('id')} of image {example.get('image_id')})"
        )
    empty = [entry["name"] for entry in categories if not used[entry["id"]]]
    if empty and annotations:
        shown = ", ".join(map(str, empty[:5])) + (", ..." if len(empty) > 5 else "")
        report.notes.append(f"{len(empty)} of {len(categories)} categories without boxes ({shown})")


def _with_classes_of(classes_from: DataSource, document: Document, report: DatasetReport) -> Document:
    """The document with the training data's categories, where its own are compatible with them."""
    expected = classes_from.classes
    used = {annotation["category_id"] for annotation in document.get("annotations", [])}
    for entry in document["categories"]:
        number, name, other = entry["id"], entry["name"], expected.get(entry["id"])
        if other is None and number in used:
            report.harmful.append(f"category id {number} ({name}) is not in {classes_from.path}")
        elif other is not None and name != other:
            report.harmful.append(f"category id {number} is {name!r} here, but {other!r} in {classes_from.path}")
    differing = len({entry["id"] for entry in document["categories"]} ^ expected.keys())
    if not differing:
        return document
    report.harmless["categories added or left out, to have the training data's"] += differing
    return document | {"categories": [{"id": key, "name": name} for key, name in expected.items()]}


# --------------------------------------------------------------------------------------------------------- images


def _check_images(images: list[dict], root: Path, skip_bad: bool, report: DatasetReport) -> list[dict]:
    """The images that can be used, with their sizes filled in where the JSON lacks them."""
    incomplete = [entry for entry in images if not {"id", "file_name"} <= entry.keys()]
    report.harmful += [f"image {entry} has no id or no file_name" for entry in incomplete]
    images = [entry for entry in images if {"id", "file_name"} <= entry.keys()]
    report.harmful += [f"image id {value} occurs more than once" for value in _duplicates(e["id"] for e in images)]
    twice = len(_duplicates(entry["file_name"] for entry in images))
    if twice:
        report.notes.append(f"{twice} image files listed more than once")

    usable = []
    for entry, finding in _inspect_files(images, root):
        if isinstance(finding, str) and skip_bad:
            report.harmless["images skipped that are missing, unreadable or of another size"] += 1
        elif isinstance(finding, str):
            hint = "dataloader.train.dataset.skip_bad_images=true skips such images"
            report.harmful.append(f"image {entry['id']}: {finding} ({hint})")
        else:
            if entry.get("height") is None or entry.get("width") is None:
                report.harmless["image sizes filled in"] += 1
                entry = entry | {"height": finding[0], "width": finding[1]}
            usable.append(entry)
    return usable


def _inspect_files(images: list[dict], root: Path) -> Iterator[tuple[dict, str | tuple[int, int]]]:
    """(entry, what is wrong with its file, or else its (height, width)), in order."""
    with ThreadPoolExecutor(_READERS) as pool:
        yield from zip(images, pool.map(lambda entry: _inspect_file(entry, root / entry["file_name"]), images))


def _inspect_file(entry: dict, path: Path) -> str | tuple[int, int]:
    if not path.is_file():
        return f"{path} is missing"
    try:
        image_hw = upright_image_hw(path)
        if not _has_its_end(path):  # or ends in something else, as some cameras append: then it decodes
            open_upright(path)
    except Exception as error:  # Pillow raises OSError, SyntaxError, ValueError, struct.error and others
        reason = str(error) or type(error).__name__
        return reason if str(path) in reason else f"{path} cannot be read as an image: {reason}"
    stated_hw = (entry.get("height"), entry.get("width"))
    if None in stated_hw or stated_hw == image_hw:
        return image_hw
    why = ""
    if stated_hw == read_stored_hw(path):
        why = ", its size before the rotation in its EXIF tag: remove the tag, or turn boxes and size"
    return f"{path} is {image_hw[1]} x {image_hw[0]}, the annotations say {stated_hw[1]} x {stated_hw[0]}{why}"


def _has_its_end(path: Path) -> bool:
    """False where a JPEG or PNG does not end with its end mark, within `_TAIL_BYTES`."""
    with open(path, "rb") as file:
        mark = _END_MARKS.get(file.read(3))
        file.seek(-min(_TAIL_BYTES, path.stat().st_size), os.SEEK_END)
        return mark is None or mark in file.read()


# ---------------------------------------------------------------------------------------------------- annotations


def _check_annotations(annotations: list[dict], images: dict, document: dict, report: DatasetReport) -> list[dict]:
    """The annotations that can be used, repaired."""
    listed = {entry.get("id") for entry in document["images"]}
    orphans = sum(annotation.get("image_id") not in listed for annotation in annotations)
    if orphans:
        report.harmless["annotations skipped whose image is not listed"] += orphans
    annotations = [annotation for annotation in annotations if annotation.get("image_id") in images]
    malformed = [annotation for annotation in annotations if not _is_four_numbers(annotation.get("bbox"))]
    report.harmful += [
        f"annotation {a.get('id')} of image {a['image_id']} ({images[a['image_id']]['file_name']}): bbox "
        f"{a.get('bbox')} is not four finite numbers"
        for a in malformed
    ]
    if malformed or not annotations:
        return annotations
    boxes_xywh = np.array([annotation["bbox"] for annotation in annotations], dtype=np.float64)
    sizes_wh = np.array([[images[a["image_id"]][key] for key in ("width", "height")] for a in annotations], dtype=float)
    suspicion = _suspected_format(boxes_xywh, sizes_wh)
    if suspicion is not None:
        index, what = suspicion
        example = annotations[index]
        report.harmful.append(
            f"{what}; expected is XYWH in pixels (e.g. annotation {example.get('id')} of image {example['image_id']}, "
            f"{images[example['image_id']]['file_name']}: {example['bbox']})"
        )
        return annotations
    return _with_ids(_with_repaired_boxes(annotations, boxes_xywh, sizes_wh, report), report)


def _is_four_numbers(bbox: Any) -> bool:
    if not isinstance(bbox, list) or len(bbox) != 4:
        return False
    return all(isinstance(value, int | float) and math.isfinite(value) for value in bbox)


def _inside(boxes_xyxy: np.ndarray, sizes_wh: np.ndarray) -> np.ndarray:
    """Which boxes have an area and lie in their image, up to rounding: bool (N,)."""
    low, high = boxes_xyxy[:, :2], boxes_xyxy[:, 2:]
    inside = (low >= -_BORDER_PX) & (high > low) & (high <= sizes_wh + _BORDER_PX)
    return np.all(inside, axis=1)


def _suspected_format(boxes: np.ndarray, sizes_wh: np.ndarray) -> tuple[int, str] | None:
    """(index of an example, sentence) where the boxes look like another format than XYWH in pixels, else None.

    Many boxes must leave their images when read as XYWH, and all of them must fit when read otherwise.
    """
    first, last = boxes[:, :2], boxes[:, 2:]
    if len(boxes) >= _FORMAT_COUNT and (boxes >= 0).all() and (boxes <= 1).all():
        return 0, f"all {len(boxes)} boxes lie between 0 and 1, as if relative to the image size"
    leaving = ~_inside(np.concatenate([first, first + last], axis=1), sizes_wh) & (last > 0).all(axis=1)
    if leaving.sum() < max(_FORMAT_COUNT, _FORMAT_SHARE * len(boxes)):
        return None
    readings = {"XYXY": boxes, "CXCYWH": np.concatenate([first - last / 2, first + last / 2], axis=1)}
    for name, boxes_xyxy in readings.items():
        if _inside(boxes_xyxy, sizes_wh)[(last > 0).all(axis=1)].mean() > 0.99:
            share = f"{leaving.sum()} of {len(boxes)} boxes leave their image, and all fit"
            return int(leaving.argmax()), f"the boxes look like {name}: as XYWH, {share} as {name}"
    return None


def _with_repaired_boxes(
    annotations: list[dict], boxes_xywh: np.ndarray, sizes_wh: np.ndarray, report: DatasetReport
) -> list[dict]:
    """Skip boxes without area or outside their image, clip the ones reaching beyond it, mend the annotations' rest."""
    low, high = boxes_xywh[:, :2], boxes_xywh[:, :2] + boxes_xywh[:, 2:]
    no_area = (boxes_xywh[:, 2:] <= 0).any(axis=1)
    outside = ~no_area & ((high <= 0) | (low >= sizes_wh)).any(axis=1)
    beyond = ~no_area & ~outside & np.any((low < -_BORDER_PX) | (high > sizes_wh + _BORDER_PX), axis=1)
    for what, which in (
        ("boxes without area skipped", no_area),
        ("boxes outside their image skipped", outside),
        ("boxes clipped to their image", beyond),
    ):
        if which.any():
            report.harmless[what] += int(which.sum())
    low, high = low.clip(0, sizes_wh), high.clip(0, sizes_wh)
    clipped = np.concatenate([low, high - low], axis=1)

    kept = []
    for index in np.flatnonzero(~no_area & ~outside):
        changes = {"bbox": clipped[index].tolist()} if beyond[index] else {}
        changes |= _other_changes(annotations[index], report)
        kept.append(annotations[index] | changes if changes else annotations[index])
    return kept


def _other_changes(annotation: dict, report: DatasetReport) -> dict:
    """What pycocotools cannot evaluate without, and what detectron2 would stop at or drop the box for."""
    changes = {}
    if annotation.get("area") is None:
        changes["area"] = annotation["bbox"][2] * annotation["bbox"][3]
        report.harmless["areas filled in"] += 1
    if annotation.get("ignore"):
        changes |= {"ignore": 0, "iscrowd": 1}
        report.harmless["ignored objects taken for crowds"] += 1
    elif annotation.get("iscrowd") is None:
        changes["iscrowd"] = 0
        report.harmless["iscrowd flags filled in"] += 1
    polygons = annotation.get("segmentation")
    if isinstance(polygons, list) and polygons and not any(_is_polygon(polygon) for polygon in polygons):
        changes["segmentation"] = []
        report.harmless["segmentations without a valid polygon removed"] += 1
    return changes


def _is_polygon(polygon: Any) -> bool:
    return isinstance(polygon, list) and len(polygon) >= 6 and len(polygon) % 2 == 0


def _with_ids(annotations: list[dict], report: DatasetReport) -> list[dict]:
    """Annotations with distinct ids from 1 on: the ones they have where those will do, else numbered anew."""
    ids = [annotation.get("id") for annotation in annotations]
    good = [value for value in ids if isinstance(value, int) and not isinstance(value, bool) and value > 0]
    if len(set(good)) == len(ids):
        return annotations
    report.harmless["annotation ids numbered anew (some were missing, 0 or duplicate)"] += len(ids)
    return [annotation | {"id": index + 1} for index, annotation in enumerate(annotations)]
