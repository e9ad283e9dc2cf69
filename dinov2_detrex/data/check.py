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
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from dinov2_detrex.data.errors import DatasetError, one_line_of, shown
from dinov2_detrex.data.image_reading import UnreadableImage, open_upright, read_stored_hw, upright_image_hw
from dinov2_detrex.data.masks import box_of_segmentation
from dinov2_detrex.data.schema import (
    LARGEST_WHOLE,
    name_with_id,
    read_annotations,
    read_categories,
    read_images,
    root_category,
    told_apart,
    with_lists,
)
from dinov2_detrex.data.source import DataSource, Document, read_source
from dinov2_detrex.runtime.errors import UserError
from dinov2_detrex.runtime.garbage import collection_paused

_READERS = 16
_FILES_AT_ONCE = 32  # handed to a reader together: one by one, the handing over took a third of the time
_BORDER_PX = 1.0  # a box may reach this far beyond its image: rounding
_FORMAT_SHARE, _FORMAT_COUNT = 0.2, 3  # so many boxes must leave the image as XYWH before another format is suspected
_TAIL_BYTES = 4096
_END_MARKS = {b"\xff\xd8\xff": b"\xff\xd9", b"\x89PN": b"IEND\xaeB`\x82"}  # JPEG's and PNG's, by their first bytes
_SHOWN = 3
_NEARLY_NONE, _FEW = 0.05, 0.5  # so small a share left of the images or objects is harmful, or told loudly


@dataclass(frozen=True)
class ObjectCounts:
    """How many objects there are to learn and to find; crowds are not counted.

    Attributes:
        total: of the data set.
        crowds: the annotations that are none.
        in_fullest_image: of the image that has the most; `fullest_image` is its file name.
        in_fullest_class: the most of one class in one image; `fullest_class` are the image's file name and the class.
        without_mask: objects without a segmentation; `first_without_mask` is the annotation id of the first.
        rle: objects whose mask is an RLE.
    """

    total: int = 0
    crowds: int = 0
    in_fullest_image: int = 0
    fullest_image: str = ""
    in_fullest_class: int = 0
    fullest_class: tuple[str, str] = ("", "")
    without_mask: int = 0
    first_without_mask: int | None = None
    rle: int = 0


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
        objects: what it holds.
    """

    json_file: str
    num_images: int = 0
    num_annotations: int = 0
    harmful: list[str] = field(default_factory=list)
    harmless: Counter = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)
    repaired: dict = field(default_factory=dict)
    objects: ObjectCounts = ObjectCounts()

    def summary(self) -> str:
        """One line for the log."""
        remarks = [f"{len(self.harmful)} errors"] if self.harmful else []
        remarks += [f"{count} {what}" for what, count in self.harmless.items()] + self.notes
        size = f"{self.num_images} images, {self.num_annotations} annotations"
        return one_line_of(f"{self.json_file}: {size}; {'; '.join(remarks) or 'nothing to complain of'}")

    def raise_if_harmful(self) -> None:
        """Raise one DatasetError with the first findings and the number of the others."""
        if self.harmful:
            others = len(self.harmful) - _SHOWN
            more = f"; and {others} more" if others > 0 else ""
            raise DatasetError(one_line_of(f"{self.json_file}: {'; '.join(self.harmful[:_SHOWN])}{more}"))


def check_source(
    source: DataSource, skip_bad_images: bool = False, classes_from: DataSource | None = None
) -> DatasetReport:
    """Check the annotations of a data set and the image files that they name.

    Harmful: images that are missing, unreadable, truncated or of another size than the annotations say; entries, ids,
    names, sizes, flags, areas and segmentations that are not what `schema` asks for; boxes that are no four finite
    numbers, or (many of them) in another format than XYWH; unknown category ids; duplicate image or category ids;
    missing keys; repairs that leave none or nearly none of the images or objects. Harmless: text that is a number (read
    as one); boxes without area or outside their image (skipped) or reaching beyond it (clipped); missing boxes of
    objects with a segmentation (made of it); annotations of images that are not listed (skipped); annotation ids that
    are missing, duplicate or 0 (numbered anew: pycocotools takes a match with id 0 for none); missing `area`,
    `iscrowd`, image sizes (filled in); `ignore` (made `iscrowd`); segmentations without a valid polygon (removed, so
    that the box stays); classes of one name (their ids are added to it); a root category (left out).

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
    with collection_paused(), np.errstate(over="ignore"):  # of boxes that reach beyond the range of floats
        document = with_lists(source.load(), source.path)
        report = DatasetReport(source.path, len(document["images"]), len(document.get("annotations", [])))
        document = _read_entries(document, report)
        document = _check_categories(document, classes_from, report)
        images = _check_images(document["images"], Path(source.image_root), skip_bad_images, report)
        by_id = {entry["id"]: entry for entry in images}
        annotations = _check_annotations(document["annotations"], by_id, document["images"], report)
        report.repaired = {"info": {}} | document | {"images": images, "annotations": annotations}
        report.objects = _count_objects(annotations, by_id, document["categories"])
        _check_what_is_left(document, images, report)
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


def _read_entries(document: Document, report: DatasetReport) -> Document:
    """The document with the entries that are as they should be, or were read so; the report gets the faults."""
    categories = read_categories(document["categories"])
    images = read_images(document["images"])
    annotations = read_annotations(document.get("annotations", []), images.entries)
    for reading in (categories, images, annotations):
        report.harmful += reading.faults
        report.harmless += reading.mended
    read = {"categories": categories.entries, "images": images.entries, "annotations": annotations.entries}
    return document | read


# ----------------------------------------------------------------------------------------------------- categories


def _check_categories(document: Document, classes_from: DataSource | None, report: DatasetReport) -> Document:
    """The document with the categories that become classes."""
    categories, annotations = document["categories"], document["annotations"]
    if report.harmful:  # ids may be lost with the entries
        return document
    known = {entry["id"] for entry in categories}
    if not known:
        report.harmful.append("the list of categories is empty")
    report.harmful += [
        f"category id {value} occurs more than once" for value in _duplicates(e["id"] for e in categories)
    ]
    used = Counter(annotation["category_id"] for annotation in annotations)
    report.harmful += [_unknown_category(value, used[value], annotations) for value in used if value not in known]
    if report.harmful:
        return document
    if classes_from is None:
        document = _with_own_classes(document, report)
    else:
        document = _with_classes_of(classes_from, document, used, report)
    empty = [entry["name"] for entry in document["categories"] if not used[entry["id"]] and entry["id"] in known]
    if empty and annotations:
        shown_names = ", ".join(map(str, empty[:5])) + (", ..." if len(empty) > 5 else "")
        report.notes.append(f"{len(empty)} of {len(document['categories'])} categories without boxes ({shown_names})")
    return document


def _unknown_category(category_id: int, count: int, annotations: list[dict]) -> str:
    example = next(annotation for annotation in annotations if annotation["category_id"] == category_id)
    return (
        f"category id {category_id} of {count} annotations is unknown (the first: annotation "
        f"{shown(example.get('id'))} of image {example['image_id']})"
    )


def _with_own_classes(document: Document, report: DatasetReport) -> Document:
    """The document without a root category, and with names that differ."""
    categories = document["categories"]
    root = root_category(categories, document["annotations"])
    if root is not None:
        categories = [entry for entry in categories if entry["id"] != 0]
        report.harmless[f"category without boxes left out that is above all others and so no class ({root!r})"] += 1
    distinct = told_apart(categories)
    renamed = [new["name"] for old, new in zip(categories, distinct) if new is not old]
    if renamed:
        report.harmless[f"classes share their name with another and are told apart: {', '.join(renamed[:5])}"] += len(
            renamed
        )
    return document | {"categories": distinct}


def _with_classes_of(classes_from: DataSource, document: Document, used: Counter, report: DatasetReport) -> Document:
    """The document with the training data's categories, where its own are compatible with them."""
    expected = classes_from.classes
    for entry in document["categories"]:
        number, name, other = entry["id"], entry["name"], expected.get(entry["id"])
        if other is None and number in used:
            report.harmful.append(f"category id {number} ({name}) is not in {classes_from.path}")
        elif other is not None and other not in (name, name_with_id(name, number)):
            report.harmful.append(f"category id {number} is {name!r} here, but {other!r} in {classes_from.path}")
    categories = [{"id": key, "name": name} for key, name in expected.items()]
    differing = {(entry["id"], entry["name"]) for entry in document["categories"]} ^ set(expected.items())
    if not differing:
        return document
    ids = {number for number, _ in differing}
    report.harmless["categories added, left out or renamed, to have the training data's"] += len(ids)
    return document | {"categories": categories}


# --------------------------------------------------------------------------------------------------------- images


def _check_images(images: list[dict], root: Path, skip_bad: bool, report: DatasetReport) -> list[dict]:
    """The images that can be used, with their sizes filled in where the JSON lacks them."""
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

    def inspect(some: list[dict]) -> list[str | tuple[int, int]]:
        return [_inspect_file(entry, root / entry["file_name"]) for entry in some]

    parts = [images[start : start + _FILES_AT_ONCE] for start in range(0, len(images), _FILES_AT_ONCE)]
    with ThreadPoolExecutor(_READERS) as pool:
        yield from zip(images, chain.from_iterable(pool.map(inspect, parts)))


def _inspect_file(entry: dict, path: Path) -> str | tuple[int, int]:
    if not path.is_file():
        return f"{path} is missing"
    try:
        image_hw = upright_image_hw(path)
        if not _has_its_end(path):  # or ends in something else, as some cameras append: then it decodes
            open_upright(path)
    except UnreadableImage as error:
        return str(error)
    except UserError:
        raise
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
        file.seek(-min(_TAIL_BYTES, os.fstat(file.fileno()).st_size), os.SEEK_END)
        return mark is None or mark in file.read()


# ---------------------------------------------------------------------------------------------------- annotations


def _check_annotations(annotations: list[dict], images: dict, listed: list[dict], report: DatasetReport) -> list[dict]:
    """The annotations that can be used, repaired; `images` are the usable ones by id, `listed` all of them."""
    known = {entry["id"] for entry in listed}
    orphans = sum(annotation["image_id"] not in known for annotation in annotations)
    if orphans:
        report.harmless["annotations skipped whose image is not listed"] += orphans
    annotations = [annotation for annotation in annotations if annotation["image_id"] in images]
    annotations = _with_boxes_of_masks(annotations, images, report)
    if not annotations:
        return annotations
    boxes_xywh = _rows((annotation["bbox"] for annotation in annotations), (len(annotations), 4))
    size_of = {image_id: (entry["width"], entry["height"]) for image_id, entry in images.items()}
    sizes_wh = _rows((size_of[annotation["image_id"]] for annotation in annotations), (len(annotations), 2))
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


def _rows(rows: Iterable[Sequence[float]], shape: tuple[int, int]) -> np.ndarray:
    """The rows as an array of float64 of that shape."""
    flat = np.fromiter(chain.from_iterable(rows), dtype=np.float64, count=math.prod(shape))
    return flat.reshape(shape)


def _with_boxes_of_masks(annotations: list[dict], images: dict, report: DatasetReport) -> list[dict]:
    """The annotations that have a box, or get the one around their segmentation; without either they are harmful."""
    if all(annotation.get("bbox") for annotation in annotations):
        return annotations
    kept = []
    for annotation in annotations:
        bbox: Any = annotation.get("bbox")
        segmentation: Any = annotation.get("segmentation")
        image = images[annotation["image_id"]]
        where = f"annotation {shown(annotation.get('id'))} of image {image['id']} ({image['file_name']})"
        if not bbox and not segmentation:
            report.harmful.append(f"{where}: bbox {bbox} is not four finite numbers, and there is no segmentation")
        elif not bbox:
            box = box_of_segmentation(segmentation, (image["height"], image["width"]))
            if box is None:
                report.harmful.append(f"{where}: the RLE's size or counts do not fit the image, and there is no bbox")
                continue
            report.harmless["missing boxes made of the segmentation"] += 1
            annotation = annotation | {"bbox": box}
        if annotation.get("bbox"):
            kept.append(annotation)
    return kept


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

    if not (no_area | outside | beyond).any() and not any(map(_needs_changes, annotations)):
        return annotations
    kept = []
    for index in np.flatnonzero(~no_area & ~outside):
        changes = {"bbox": clipped[index].tolist()} if beyond[index] else {}
        changes |= _other_changes(annotations[index], report)
        kept.append(annotations[index] | changes if changes else annotations[index])
    return kept


def _needs_changes(annotation: dict) -> bool:
    """Whether `_other_changes` has any; asked first, since a large set mostly needs none."""
    get = annotation.get
    return get("area") is None or get("iscrowd") is None or get("ignore", 0) != 0


def _other_changes(annotation: dict, report: DatasetReport) -> dict:
    """What pycocotools cannot evaluate without, and what detectron2 would stop at or drop the box for."""
    changes = {}
    if annotation.get("area") is None:
        changes["area"] = annotation["bbox"][2] * annotation["bbox"][3]
        report.harmless["areas filled in"] += 1
    ignored = annotation.get("ignore", 0)
    if ignored is None:  # detectron2 takes it for one that is set
        changes["ignore"] = 0
        report.harmless["empty ignore flags set to 0"] += 1
    if ignored:
        changes |= {"ignore": 0, "iscrowd": 1}
        report.harmless["ignored objects taken for crowds"] += 1
    elif annotation.get("iscrowd") is None:
        changes["iscrowd"] = 0
        report.harmless["iscrowd flags filled in"] += 1
    return changes


def _with_ids(annotations: list[dict], report: DatasetReport) -> list[dict]:
    """Annotations with distinct ids from 1 on: the ones they have where those will do, else numbered anew."""
    ids: list[Any] = [annotation.get("id") for annotation in annotations]
    if (
        set(map(type, ids)) <= {int}
        and len(set(ids)) == len(ids)
        and 0 < min(ids, default=1) <= max(ids, default=1) <= LARGEST_WHOLE
    ):
        return annotations
    report.harmless["annotation ids numbered anew (some were missing, 0 or duplicate)"] += len(ids)
    return [annotation | {"id": index + 1} for index, annotation in enumerate(annotations)]


# ------------------------------------------------------------------------------------------------- what is left


def _count_objects(annotations: list[dict], images: dict, categories: list[dict]) -> ObjectCounts:
    """What the document holds after the repairs; objects of unusable entries are not counted."""
    pairs = Counter((a["image_id"], a["category_id"]) for a in annotations if not a.get("iscrowd"))
    if not pairs:
        return ObjectCounts(crowds=len(annotations))
    per_image: Counter = Counter()
    for (image_id, _), count in pairs.items():
        per_image[image_id] += count
    names = {entry["id"]: entry["name"] for entry in categories}
    (image_id, in_image), ((class_image, category_id), in_class) = per_image.most_common(1)[0], pairs.most_common(1)[0]
    total = pairs.total()
    return ObjectCounts(
        total=total,
        crowds=len(annotations) - total,
        in_fullest_image=in_image,
        fullest_image=images[image_id]["file_name"],
        in_fullest_class=in_class,
        fullest_class=(images[class_image]["file_name"], str(names.get(category_id, category_id))),
        **_count_masks(annotations),
    )


def _count_masks(annotations: list[dict]) -> dict[str, Any]:
    """The fields of `ObjectCounts` that are about segmentations."""
    masks = [(a.get("segmentation"), a.get("id")) for a in annotations if not a.get("iscrowd")]
    without = [number for mask, number in masks if not mask]
    rle = sum(isinstance(mask, dict) for mask, _ in masks)
    return {"without_mask": len(without), "first_without_mask": without[0] if without else None, "rle": rle}


def _check_what_is_left(document: Document, images: list[dict], report: DatasetReport) -> None:
    """A repair that is harmless for one entry is not where it takes (nearly) all of them."""
    if report.harmful:
        return
    if not document["images"]:
        report.harmful.append("the list of images is empty")
        return
    skipped = {entry["id"] for entry in document["images"]} - {entry["id"] for entry in images}
    objects = sum(not a.get("iscrowd") and a["image_id"] not in skipped for a in document["annotations"])
    for what, left, listed in (
        ("images", len(images), len(document["images"])),
        ("objects", report.objects.total, objects),
    ):
        if left < _NEARLY_NONE * listed:
            reasons = ", ".join(f"{count} {what}" for what, count in report.harmless.items())
            report.harmful.append(f"{left} of {listed} {what} are left: {reasons}")
            return
        if left < _FEW * listed:
            report.notes.insert(0, f"ONLY {left} OF {listed} {what.upper()} ARE LEFT")
