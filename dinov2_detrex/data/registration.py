"""How a config names its data: annotations and an image folder become a registered detectron2 data set.

    dataset=L(coco_dataset_dicts)(names="my_train", json_file="my/train.json", image_root="my/images")

registers, loads and filters, so that `COCOEvaluator(dataset_name="my_train")` and the class names work afterwards and
own data needs no code.
"""

import functools
import hashlib
import json
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from detectron2.data import DatasetCatalog, MetadataCatalog, get_detection_dataset_dicts
from detectron2.data.datasets import register_coco_instances
from torch.utils.data import Dataset

from dinov2_detrex.data.check import ObjectCounts, check_source
from dinov2_detrex.data.errors import DatasetError, DatasetNotFoundError
from dinov2_detrex.data.paths import datasets_root
from dinov2_detrex.data.source import (
    DataSource,
    Document,
    PathLike,
    Paths,
    as_paths,
    expanded,
    is_there,
    read_source,
    split_path,
)
from dinov2_detrex.runtime.files import atomic_write, cache_folder

logger = logging.getLogger(__name__)

_LONGEST_STEM = 40  # characters, of up to four bytes; a file's name has 255


def coco_dataset_dicts(
    names: str,
    json_file: Paths | None = None,
    image_root: PathLike | None = None,
    filter_empty: bool = True,
    check: bool = False,
    skip_bad_images: bool = False,
    classes_from: Paths | None = None,
    if_missing: str = "",
) -> list[dict[str, Any]] | Dataset[Any]:
    """Register a data set under `names`, if it is not yet, and return its records.

    Args:
        names: the data set's name, as `dataloader.evaluator.dataset_name` refers to it.
        json_file: its instances JSON, or the annotations of another known format (`data/formats/`), with `#split` for
            a part of a folder; several are joined; None for a name that detectron2 or the caller has registered.
        image_root: the folder that its file names are relative to; None likewise, or where the format says it.
        filter_empty: leave out images without an object that is not a crowd; False for evaluation.
        check: look for what is wrong with the data first, see `check_source`. What is harmless is repaired, in a
            copy of the JSON that training and evaluation then use, and one log line counts it. Other formats than
            COCO's are always checked.
        skip_bad_images: with `check`, leave out images that are missing, unreadable or of another size.
        classes_from: with `check`, the annotations of the training data, whose classes this data set must have.
        if_missing: what to do where the files are not there, e.g. "make it with `...`", for the error.

    Returns:
        data set dicts with contiguous category ids, sorted by image id; a torch data set that the caller registered
        under the name as it is.

    Raises:
        DatasetNotFoundError: the annotations or the folder are not there; one line with what was expected where.
        DatasetError: `check` found something harmful; one line with the file and the id.
        KeyError: no paths are given and the name is not registered.
    """
    source = find_source(names, json_file, image_root, if_missing)
    if source is not None:
        register(names, usable_source(source, check, skip_bad_images, classes_from))
    return get_detection_dataset_dicts(names=names, filter_empty=filter_empty)


def class_names_of(dataset_name: str) -> list[str]:
    """Class names of a registered and loaded data set by contiguous index; [] where it has none."""
    return list(getattr(MetadataCatalog.get(dataset_name), "thing_classes", []))


# ------------------------------------------------------------------------------------------ from a name to a source


def find_source(
    name: str, path: Paths | None = None, image_root: PathLike | None = None, if_missing: str = ""
) -> DataSource | None:
    """The source of a data set: at the paths, or where it is registered without them.

    Returns:
        None for a name that is not registered, or without files on this machine (an URL, or records made by code).

    Raises:
        DatasetNotFoundError: its files are not there; one line that says what to do.
        DatasetError: one of the paths is missing, or the file is of no known format.
    """
    if path is None and image_root is None:
        path, image_root = registered_paths(name)
        if not path or "://" in f"{path}{image_root}":
            return None
    paths, image_root = as_paths(path), expanded(image_root)
    if paths:
        _require_files(name, paths, image_root, if_missing)
        source = read_source(paths, image_root)
        if source.image_root is not None:
            return source
    given = paths[0] if len(paths) == 1 else list(paths) or None
    raise DatasetError(f"data set {name!r}: json_file={given!r}, image_root={image_root!r}; both are needed")


def source_in_config(cfg_dataset: Mapping[str, Any], name: str) -> DataSource | None:
    """`find_source` for one of the names that the `dataset` of a config's loader reads."""
    paths = cfg_dataset.get("json_file"), cfg_dataset.get("image_root")
    return find_source(name, *paths, if_missing=cfg_dataset.get("if_missing") or "")


def registered_paths(name: str) -> tuple[str | None, str | None]:
    """(annotations, image folder) that detectron2 knows of a name; None for what it does not."""
    metadata = MetadataCatalog.get(name) if name in DatasetCatalog.list() else None
    return getattr(metadata, "json_file", None), getattr(metadata, "image_root", None)


def _require_files(name: str, paths: Sequence[str], image_root: str | None, if_missing: str) -> None:
    missing = [split_path(path)[0] for path in paths if not is_there(path)]
    missing += [image_root] if image_root and not os.path.isdir(image_root) else []
    if missing:
        advice = if_missing or f"needed are the annotations {' + '.join(paths)} and the image folder {image_root}"
        where = f"; {_where_data_sets_lie()}" if Path(paths[0]).is_relative_to(datasets_root()) else ""
        raise DatasetNotFoundError(f"data set {name!r}: {' and '.join(missing)} not found; {advice}{where}")


def _where_data_sets_lie() -> str:
    root = datasets_root()
    setting = f"is {root}" if os.environ.get("DETECTRON2_DATASETS") else f"is not set, so it is {root.resolve()}"
    return f"the folder of data sets, DETECTRON2_DATASETS, {setting}"


# ------------------------------------------------------------------------------- from a source to what can be trained


def usable_source(
    source: DataSource, check: bool = False, skip_bad_images: bool = False, classes_from: Paths | None = None
) -> DataSource:
    """The source to load, with a `json_file`: the given one, or one of a repaired or converted copy in the cache.

    See `coco_dataset_dicts` for arguments and errors. Formats other than COCO's are checked in any case, since that
    fills in what a JSON needs and they may not hold, such as the sizes of the images. A source is checked once as long
    as its files stay the same, so a run can ask for all its data sets before the first step.
    """
    return used_source(source, check, skip_bad_images, classes_from).source


class UsedSource(NamedTuple):
    """The source that is loaded in place of another, with a `json_file`, and what the check counted in it.

    Attributes:
        source: as it is loaded.
        objects: None for one that was not checked.
    """

    source: DataSource
    objects: ObjectCounts | None


def used_source(
    source: DataSource, check: bool = False, skip_bad_images: bool = False, classes_from: Paths | None = None
) -> UsedSource:
    """`usable_source`, and the counts of its objects."""
    if source.json_file and not check:
        return UsedSource(source, None)
    return _check_once(source, bool(skip_bad_images), None if classes_from is None else read_source(classes_from))


@functools.lru_cache(maxsize=16)
def _check_once(source: DataSource, skip_bad_images: bool, classes_from: DataSource | None) -> UsedSource:
    report = check_source(source, skip_bad_images, classes_from)
    report.raise_if_harmful()
    if source.json_file and not report.harmless:
        logger.info(report.summary())
        return UsedSource(source, report.objects)
    repaired = _written(source, report.repaired)
    log = logger.warning if report.harmless else logger.info
    log("%s; used is the %s copy %s", report.summary(), "repaired" if report.harmless else "converted", repaired.path)
    return UsedSource(repaired, report.objects)


def _written(source: DataSource, document: Document) -> DataSource:
    """The document as a file of the user's cache, named by its content; many processes may call this at once.

    A file of that name with another content, say one that was cut short, is replaced.
    """
    text = json.dumps(document).encode()
    path = cache_folder("repaired") / f"{_file_stem(source.path)}-{hashlib.sha256(text).hexdigest()[:16]}.json"
    if not path.is_file() or path.read_bytes() != text:
        with atomic_write(path) as file:
            file.write(text)
    return read_source(path, source.image_root)


def _file_stem(path: str) -> str:
    """The name of a file, or of a folder and its part, such as "cells-train"; of the last where several are joined.

    Short enough to have more added.
    """
    location, split = split_path(path)
    return (Path(location).stem if split is None else f"{Path(location).resolve().name}-{split}")[:_LONGEST_STEM]


def register(name: str, source: DataSource) -> None:
    """Register a source with a `json_file`; a name that stood for other files stands for these from here on."""
    json_file, image_root = source.json_file, source.image_root
    if json_file is None or image_root is None:
        raise ValueError(f"{source.path}: without a JSON ({json_file}) and an image folder ({image_root})")
    if name in DatasetCatalog.list():
        if registered_paths(name) == (json_file, image_root):
            return
        logger.warning("data set %r stands for %s from here on", name, json_file)
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
    register_coco_instances(name, {}, json_file, image_root)
