"""Which classes a COCO-format JSON defines, and how many images it lists: what a recipe derives from its data."""

import functools
import json
import os
from pathlib import Path

from dinov2_detrex.data.errors import DatasetError, DatasetNotFoundError


def read_document(json_file: str | os.PathLike) -> dict:
    """The JSON as a dict with at least the lists "images" and "categories".

    Raises:
        FileNotFoundError: there is no such file.
        DatasetError: it is no JSON, or not COCO's format.
    """
    with open(json_file, encoding="utf-8") as file:
        try:
            document = json.load(file)
        except ValueError as error:
            raise DatasetError(f"{os.fspath(json_file)} is not valid JSON: {error}") from error
    for key in ("images", "categories"):
        if not isinstance(document, dict) or not isinstance(document.get(key), list):
            raise DatasetError(f"{os.fspath(json_file)} is not in COCO's format: it has no list {key!r}")
    return document


def class_names_by_id(json_file: str | os.PathLike) -> dict[int, str]:
    """{category id: name} of a JSON, by ascending id: the order of the contiguous indices 0..C-1."""
    return dict(_outline(json_file)[0])


def count_classes(json_file: str | os.PathLike) -> int:
    """Number of categories that a JSON defines, with and without boxes."""
    return len(_outline(json_file)[0])


def count_images(json_file: str | os.PathLike) -> int:
    """Number of images that a JSON lists, with and without boxes.

    Raises:
        DatasetError: there are none.
    """
    count = _outline(json_file)[1]
    if not count:
        raise DatasetError(f"{os.fspath(json_file)} lists no images")
    return count


def _outline(json_file: str | os.PathLike) -> tuple[tuple[tuple[int, str], ...], int]:
    """((id, name), ...) by ascending id, and the number of images; parsed once as long as the file stays the same."""
    if not json_file or not Path(json_file).expanduser().is_file():
        missing = f"{json_file} is not there" if json_file else "none is given (data.train.json=...)"
        raise DatasetNotFoundError(f"the classes come from the instances JSON of the training data, but {missing}")
    path = Path(json_file).expanduser()
    return _parse_outline(str(path), path.stat().st_mtime_ns, path.stat().st_size)


@functools.lru_cache(maxsize=16)
def _parse_outline(json_file: str, _mtime_ns: int, _size: int) -> tuple[tuple[tuple[int, str], ...], int]:
    document = read_document(json_file)
    try:
        categories = sorted((entry["id"], entry["name"]) for entry in document["categories"])
    except (KeyError, TypeError) as error:
        raise DatasetError(f"{json_file}: every category needs an integer id and a name ({error!r})") from error
    return tuple(categories), len(document["images"])
