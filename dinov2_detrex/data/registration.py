"""How a config names its data: a COCO-format JSON and an image folder become a registered detectron2 data set.

    dataset=L(coco_dataset_dicts)(names="my_train", json_file="my/train.json", image_root="my/images")

registers, loads and filters, so that `COCOEvaluator(dataset_name="my_train")` and the class names work afterwards and
own data needs no code.
"""

import functools
import hashlib
import json
import logging
import os
from pathlib import Path

from detectron2.data import DatasetCatalog, MetadataCatalog, get_detection_dataset_dicts
from detectron2.data.datasets import register_coco_instances

from dinov2_detrex.data.check import check_coco_dataset
from dinov2_detrex.data.errors import DatasetError, DatasetNotFoundError
from dinov2_detrex.data.paths import datasets_root
from dinov2_detrex.runtime.files import atomic_write

CHECK_OPTIONS = ("check", "skip_bad_images", "classes_from")  # arguments of a config's data set that ask for checks

logger = logging.getLogger(__name__)


def coco_dataset_dicts(
    names: str,
    json_file: str | os.PathLike | None = None,
    image_root: str | os.PathLike | None = None,
    filter_empty: bool = True,
    check: bool = False,
    skip_bad_images: bool = False,
    classes_from: str | os.PathLike | None = None,
) -> list[dict]:
    """Register a COCO-format data set under `names`, if it is not yet, and return its records.

    Args:
        names: the data set's name, as `dataloader.evaluator.dataset_name` refers to it.
        json_file: its instances JSON; None for a name that detectron2 or the caller has registered.
        image_root: the folder that its file names are relative to; None likewise.
        filter_empty: leave out images without an object that is not a crowd; False for evaluation.
        check: look for what is wrong with the data first, see `check_coco_dataset`. What is harmless is repaired, in a
            copy of the JSON that training and evaluation then use, and one log line counts it.
        skip_bad_images: with `check`, leave out images that are missing, unreadable or of another size.
        classes_from: with `check`, the JSON of the training data, whose classes this data set must have.

    Returns:
        data set dicts with contiguous category ids, sorted by image id.

    Raises:
        DatasetNotFoundError: the JSON or the folder is not there; one line with what was expected where.
        DatasetError: `check` found something harmful; one line with the file and the id.
        KeyError: no paths are given and the name is not registered.
    """
    if json_file is None and image_root is None:
        metadata = MetadataCatalog.get(names) if names in DatasetCatalog.list() else None
        json_file, image_root = getattr(metadata, "json_file", None), getattr(metadata, "image_root", None)
    if json_file is not None or image_root is not None:
        json_file, image_root = _expanded(json_file), _expanded(image_root)
        json_file = usable_json(names, json_file, image_root, check, skip_bad_images, classes_from)
        register(names, json_file, image_root)
    return get_detection_dataset_dicts(names=names, filter_empty=filter_empty)


def class_names_of(dataset_name: str) -> list[str]:
    """Class names of a registered and loaded data set by contiguous index; [] where it has none."""
    return list(getattr(MetadataCatalog.get(dataset_name), "thing_classes", []))


def usable_json(
    name: str,
    json_file: str | os.PathLike,
    image_root: str | os.PathLike,
    check: bool = False,
    skip_bad_images: bool = False,
    classes_from: str | os.PathLike | None = None,
) -> str | os.PathLike:
    """The JSON to load: the given one, or a repaired copy of it; see `coco_dataset_dicts` for arguments and errors.

    A file is checked once as long as it stays the same, so a run can ask for all its data sets before the first step.
    """
    json_file, image_root = _expanded(json_file), _expanded(image_root)
    require_files(name, json_file, image_root)
    if not check:
        return json_file
    stat = os.stat(json_file)
    options = (bool(skip_bad_images), _expanded(classes_from))
    return _check_once(json_file, image_root, *options, stat.st_mtime_ns, stat.st_size)


def _expanded(path: str | os.PathLike | None) -> str | None:
    """With `~` as the home folder, which a shell leaves as it is in `data.train.json=~/my.json`."""
    return None if path is None else os.path.expanduser(os.fspath(path))


@functools.lru_cache(maxsize=16)
def _check_once(json_file: str, image_root: str, skip_bad_images: bool, classes_from: str | None, *_stat) -> str:
    report = check_coco_dataset(json_file, image_root, skip_bad_images, classes_from)
    report.raise_if_harmful()
    if not report.harmless:
        logger.info(report.summary())
        return json_file
    repaired = _write_once(report.repaired, Path(json_file).stem)
    logger.warning("%s; used is the repaired copy %s", report.summary(), repaired)
    return str(repaired)


def _write_once(document: dict, stem: str) -> Path:
    """The document as a file of the user's cache, named by its content; many processes may call this at once."""
    text = json.dumps(document).encode()
    folder = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "dinov2_detrex" / "repaired"
    path = folder / f"{stem}-{hashlib.sha256(text).hexdigest()[:16]}.json"
    if not path.is_file():
        with atomic_write(path) as file:
            file.write(text)
    return path


def register(name: str, json_file: str | os.PathLike, image_root: str | os.PathLike) -> None:
    """Register a COCO-format data set; a name that stood for other files stands for these from now on."""
    paths = {"json_file": os.fspath(json_file), "image_root": os.fspath(image_root)}
    if name in DatasetCatalog.list():
        registered = MetadataCatalog.get(name)
        if all(getattr(registered, key, None) == value for key, value in paths.items()):
            return
        logger.warning("data set %r now stands for %s", name, paths["json_file"])
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
    register_coco_instances(name, {}, **paths)


def require_files(name: str, json_file: str | os.PathLike, image_root: str | os.PathLike) -> None:
    """Raise DatasetNotFoundError, in one line that says what to do, unless the JSON and the image folder are there."""
    if not json_file or not image_root:
        raise DatasetError(f"data set {name!r}: json_file={json_file!r}, image_root={image_root!r}; both are needed")
    missing = [path for path, there in ((json_file, os.path.isfile), (image_root, os.path.isdir)) if not there(path)]
    if missing:
        found = " and ".join(os.fspath(path) for path in missing)
        raise DatasetNotFoundError(f"data set {name!r}: {found} not found; {_what_to_do(name, json_file, image_root)}")


def _what_to_do(name: str, json_file, image_root) -> str:
    """The half of the message that helps: where such files are looked for, and what makes or names them."""
    root = datasets_root()
    advice = f"needed are the annotations {json_file} and the image folder {image_root}"
    if name.startswith("shapes_"):
        advice = "make it with `python -m dinov2_detrex.data.shapes`"
    if name.startswith("custom_"):
        split = name.removeprefix("custom_")
        advice = f"name yours with data.{split}.json=FILE data.{split}.images=FOLDER"
    if not Path(json_file).is_relative_to(root):
        return advice
    setting = f"is {root}" if os.environ.get("DETECTRON2_DATASETS") else f"is not set, so it is {root.resolve()}"
    return f"{advice}; the folder of data sets, DETECTRON2_DATASETS, {setting}"
