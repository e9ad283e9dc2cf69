"""COCO's instances JSON: into data set dicts (`load_coco_json`), by name (`register_coco_instances`), and back."""

import contextlib
import datetime
import json
import logging
import os
import time
from collections import Counter
from typing import Any, cast

import numpy as np
from detectron2.data.catalog import DatasetCatalog, Metadata, MetadataCatalog
from detectron2.structures import BoxMode, PolygonMasks
from detectron2.utils.file_io import PathManager
from pycocotools import mask as coco_mask

from dinov2_detrex.runtime import files

logger = logging.getLogger(__name__)

__all__ = ["convert_to_coco_json", "load_coco_json", "register_coco_instances"]

_KEPT_KEYS = ("iscrowd", "bbox", "category_id")


def register_coco_instances(
    name: str, metadata: dict, json_file: str | os.PathLike, image_root: str | os.PathLike
) -> None:
    """Register a COCO-format data set; nothing is opened before it is asked for.

    Args:
        name: of the data set.
        metadata: further entries for `MetadataCatalog.get(name)`, may be empty.
        json_file: the instances JSON.
        image_root: folder that the JSON's file names are relative to.

    Raises:
        AssertionError: wrong types, or the name stands for other paths already.
    """
    assert isinstance(name, str), f"the name of a data set is a string, got {type(name).__name__}"
    for path in (json_file, image_root):
        assert isinstance(path, (str, os.PathLike)), f"data set {name!r}: {path!r} is not a path"
    MetadataCatalog.get(name).set(json_file=json_file, image_root=image_root, evaluator_type="coco", **metadata)
    if name not in DatasetCatalog:
        DatasetCatalog.register(name, lambda: load_coco_json(json_file, image_root, name))


def load_coco_json(
    json_file: str | os.PathLike,
    image_root: str | os.PathLike,
    dataset_name: str | None = None,
    extra_annotation_keys: list[str] | None = None,
) -> list[dict]:
    """Read a COCO-format instances JSON. Keypoints are left out unless asked for as an extra key.

    Args:
        json_file: its path. Without "annotations" (COCO's test files) every image has none.
        image_root: put before the JSON's file names, unless they are absolute.
        dataset_name: if given, class names and the mapping of ids are stored in its metadata and category ids become
            contiguous: 0 .. C-1 by ascending id. If not, ids stay as they are and "categories" is not needed.
        extra_annotation_keys: further keys of the annotations to keep.

    Returns:
        data set dicts by ascending image id; boxes in XYWH_ABS.

    Raises:
        FileNotFoundError: no such JSON.
        KeyError: a required key is missing, or an annotation's category is unknown.
        ValueError: an empty box.
        AssertionError: duplicate annotation ids, an annotation with "ignore", or a class list that differs from the
            metadata's.
    """
    start = time.perf_counter()
    content = _read_json(json_file, dataset_name)
    if (seconds := time.perf_counter() - start) > 1:
        logger.info("loading %s took %.2f seconds", json_file, seconds)
    contiguous_ids = _store_classes(content, json_file, dataset_name) if dataset_name is not None else None
    images = _images_by_id(content, json_file)
    annotations = _annotations_by_image(content, json_file, images)
    parser = _AnnotationParser(json_file, contiguous_ids, (*_KEPT_KEYS, *(extra_annotation_keys or ())))
    records = [
        _image_record(images[image_id], json_file, image_root, parser.parse_all(annotations.get(image_id, ())))
        for image_id in sorted(images)
    ]
    parser.report_dropped()
    logger.info("loaded %d images in COCO format from %s", len(records), json_file)
    return records


def _read_json(json_file: str | os.PathLike, dataset_name: str | None) -> dict:
    try:
        with open(PathManager.get_local_path(os.fspath(json_file))) as file:
            return json.load(file)
    except FileNotFoundError as error:
        root = os.environ.get("DETECTRON2_DATASETS", "./datasets")
        builtin = (dataset_name or "").startswith("coco_20")
        hint = f"; built-in data sets lie under DETECTRON2_DATASETS={root}" if builtin else ""
        raise FileNotFoundError(error.errno, f"{error.strerror}{hint}", os.fspath(json_file)) from None


def _require(entry: dict, key: str, what: str, json_file: str | os.PathLike):
    if key not in entry:
        raise KeyError(f"{os.fspath(json_file)}: {what} has no {key!r}")
    return entry[key]


def _store_classes(content: dict, json_file: str | os.PathLike, dataset_name: str) -> dict[int, int]:
    """Put class names and id mapping into the data set's metadata; returns {dataset id: contiguous id}."""
    categories = _require(content, "categories", "the file", json_file)
    names = {_require(c, "id", "a category", json_file): c["name"] for c in categories}
    ids = sorted(names)
    if ids != list(range(1, len(ids) + 1)) and "coco" not in dataset_name:
        logger.warning("category ids in %s are not 1..%d: a mapping is applied for you", json_file, len(ids))
    mapping = {category_id: i for i, category_id in enumerate(ids)}
    MetadataCatalog.get(dataset_name).set(
        thing_classes=[names[category_id] for category_id in ids], thing_dataset_id_to_contiguous_id=mapping
    )
    return mapping


def _images_by_id(content: dict, json_file: str | os.PathLike) -> dict:
    entries = _require(content, "images", "the file", json_file)
    images = {_require(entry, "id", "an image", json_file): entry for entry in entries}
    if len(images) < len(entries):
        logger.warning("%s: %d images share their id with another and are lost", json_file, len(entries) - len(images))
    return images


def _annotations_by_image(content: dict, json_file: str | os.PathLike, images: dict) -> dict[object, list[dict]]:
    annotations = content.get("annotations", [])
    ids = Counter(_require(a, "id", f"an annotation of image {a.get('image_id')}", json_file) for a in annotations)
    if "minival" not in os.fspath(json_file):  # COCO 2014's minival files are known to repeat ids
        duplicates = [number for number, count in ids.items() if count > 1]
        assert not duplicates, f"{json_file}: {len(duplicates)} annotation ids occur twice, e.g. {duplicates[0]}"
    by_image: dict[object, list[dict]] = {}
    for annotation in annotations:
        image_id = _require(annotation, "image_id", f"annotation {annotation['id']}", json_file)
        by_image.setdefault(image_id, []).append(annotation)
    lost = sum(len(group) for image_id, group in by_image.items() if image_id not in images)
    if lost:
        logger.warning("%s: %d annotations belong to images that are not in the file and are ignored", json_file, lost)
    return by_image


def _image_record(entry: dict, json_file, image_root: str | os.PathLike, annotations: list[dict]) -> dict:
    what = f"image {entry['id']}"
    return {
        "file_name": os.path.join(image_root, _require(entry, "file_name", what, json_file)),
        "height": _require(entry, "height", what, json_file),
        "width": _require(entry, "width", what, json_file),
        "image_id": entry["id"],
        "annotations": annotations,
    }


class _AnnotationParser:
    """Turns annotations of the JSON into those of a data set dict, and counts the ones it must drop."""

    def __init__(self, json_file, contiguous_ids: dict[int, int] | None, kept_keys: tuple[str, ...]):
        self.json_file = json_file
        self.contiguous_ids = contiguous_ids
        self.kept_keys = kept_keys
        self.num_dropped = 0

    def parse_all(self, annotations) -> list[dict]:
        parsed = [self._parse(annotation) for annotation in annotations]
        return [annotation for annotation in parsed if annotation is not None]

    def _parse(self, source: dict) -> dict | None:
        what = f"{self.json_file}: annotation {source['id']} of image {source['image_id']}"
        assert source.get("ignore", 0) == 0, f"{what} has 'ignore' set, which COCO-format files cannot have"
        annotation = {key: source[key] for key in self.kept_keys if key in source}
        if "bbox" in annotation and len(annotation["bbox"]) == 0:
            raise ValueError(f"{what} has an empty 'bbox'")
        if source.get("segmentation"):
            annotation["segmentation"] = _valid_segmentation(source["segmentation"])
            if not annotation["segmentation"]:
                self.num_dropped += 1
                return None
        annotation["bbox_mode"] = BoxMode.XYWH_ABS
        if self.contiguous_ids is not None:
            annotation["category_id"] = _contiguous_id(source, self.contiguous_ids, what)
        return annotation

    def report_dropped(self) -> None:
        if self.num_dropped:
            logger.warning(
                "%s: dropped %d instances without a valid polygon: an even number of at least 6 values",
                self.json_file,
                self.num_dropped,
            )


def _contiguous_id(source: dict, contiguous_ids: dict[int, int], what: str) -> int:
    category_id = source.get("category_id")
    if category_id is None or category_id not in contiguous_ids:
        raise KeyError(f"{what} has category_id {category_id}, which is not in 'categories'")
    return contiguous_ids[category_id]


def _valid_segmentation(segmentation: dict | list) -> dict | list:
    """A compressed RLE, or the valid ones among the polygons."""
    if isinstance(segmentation, dict):
        if isinstance(segmentation["counts"], list):
            uncompressed = cast(Any, segmentation)  # a kind of RLE that the stubs do not know
            return coco_mask.frPyObjects(uncompressed, *segmentation["size"])
        return segmentation
    return [polygon for polygon in segmentation if len(polygon) >= 6 and len(polygon) % 2 == 0]


def convert_to_coco_json(dataset_name: str, output_file: str | os.PathLike, allow_cached: bool = True) -> None:
    """Write a registered data set as COCO-format JSON, for an evaluator that reads such files.

    Args:
        dataset_name: registered, with `thing_classes` in its metadata.
        output_file: its folder is made if need be. A file that is there already is kept with a warning if it has
            the same number of images and the same classes.
        allow_cached: False always writes.
    """
    records, metadata = DatasetCatalog.get(dataset_name), MetadataCatalog.get(dataset_name)
    if allow_cached and _is_fresh(output_file, records, metadata):
        logger.warning("using the existing %s: delete it if the data set %s has changed", output_file, dataset_name)
        return
    files.write_json(output_file, _coco_content(records, metadata))


def _is_fresh(output_file: str | os.PathLike, records: list[dict], metadata: Metadata) -> bool:
    content = {}
    with contextlib.suppress(OSError, ValueError), open(output_file) as file:
        content = json.load(file)
    return (
        len(content.get("images", ())) == len(records)
        and content.get("categories") == _categories(metadata)
        and "annotations" in content
    )


def _dataset_ids(metadata: Metadata) -> dict[int, int]:
    """{contiguous id: dataset id}; the contiguous ids themselves where no mapping is known."""
    mapping = metadata.get("thing_dataset_id_to_contiguous_id")
    if mapping is None:
        return {i: i for i in range(len(metadata.thing_classes))}
    return {contiguous: original for original, contiguous in mapping.items()}


def _categories(metadata: Metadata) -> list[dict]:
    ids = _dataset_ids(metadata)
    return [{"id": ids[i], "name": name} for i, name in enumerate(metadata.thing_classes)]


def _coco_content(records: list[dict], metadata: Metadata) -> dict:
    ids = _dataset_ids(metadata)
    images, annotations = [], []
    for index, record in enumerate(records):
        image_id = record.get("image_id", index)
        size = {"width": int(record["width"]), "height": int(record["height"])}
        images.append({"id": image_id, **size, "file_name": str(record["file_name"])})
        for source in record.get("annotations", ()):
            annotation = _coco_annotation(source, ids[source["category_id"]])
            annotations.append({"id": len(annotations) + 1, "image_id": image_id, **annotation})
    info = {"date_created": str(datetime.datetime.now()), "description": "written from a registered data set"}
    categories = _categories(metadata)
    return {"info": info, "images": images, "categories": categories, "annotations": annotations, "licenses": None}


def _coco_annotation(source: dict, category_id: int) -> dict:
    bbox = [float(value) for value in source["bbox"]]
    x, y, w, h = BoxMode.convert(bbox, source["bbox_mode"], BoxMode.XYWH_ABS)
    annotation = {
        "bbox": [round(value, 3) for value in (x, y, w, h)],
        "iscrowd": int(source.get("iscrowd", 0)),
        "category_id": category_id,
        "area": w * h,
    }
    if segmentation := source.get("segmentation"):
        annotation["segmentation"] = _as_json(segmentation)
        annotation["area"] = _segmentation_area(segmentation)
    return annotation


def _segmentation_area(segmentation: dict | list) -> float:
    if isinstance(segmentation, dict):
        return float(coco_mask.area(cast(Any, segmentation)))
    return float(PolygonMasks([segmentation]).area()[0])


def _as_json(segmentation: dict | list) -> dict | list:
    if isinstance(segmentation, dict):
        counts = segmentation["counts"]
        return {**segmentation, "counts": counts.decode() if isinstance(counts, bytes) else counts}
    return [np.asarray(polygon).tolist() for polygon in segmentation]
