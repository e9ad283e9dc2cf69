"""One data set on the disk, whatever its format: which classes, which image folder, how many images, which records.

    source = read_source("train.json", "images")
    source.classes, source.num_images, source.load()

What can be read is said by the files in `formats/`, one format each, and by `register_format`.
"""

import functools
import importlib
import os
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from dinov2_detrex.data.errors import DatasetError, DatasetNotFoundError

Document = dict[str, Any]  # an instances document in COCO's form: the lists "images", "annotations", "categories"


@dataclass(frozen=True)
class DataSource:
    """One data set; equal sources hold equal data, so what was found out about one holds for the other.

    Attributes:
        path: the file or folder of annotations.
        image_root: the folder that the images' file names are relative to; None where it is not known.
        version: differs once the annotations have changed, e.g. `file_version(path)`.
        load: reads the annotations as a document in COCO's form, with at least "images" (id, file_name) and
            "categories" (id, name); boxes are XYWH in pixels. `check_source` says what is wrong with it and fills in
            what may be missing.
        json_file: where that document lies as a file, if the data set is in COCO's format itself.
    """

    path: str
    image_root: str | None
    version: tuple[int, ...]
    load: Callable[[], Document] = field(compare=False)
    json_file: str | None = None

    @property
    def classes(self) -> dict[int, str]:
        """{category id: name}, with and without boxes, by ascending id: the order of the contiguous indices 0..C-1."""
        return dict(_outline(replace(self, image_root=None))[0])

    @property
    def num_images(self) -> int:
        """Number of images that are listed, with and without boxes."""
        return _outline(replace(self, image_root=None))[1]


@functools.lru_cache(maxsize=16)
def _outline(source: DataSource) -> tuple[tuple[tuple[int, str], ...], int]:
    """((id, name), ...) by ascending id, and the number of images; read once as long as the source stays the same."""
    document = source.load()
    try:
        categories = sorted((entry["id"], entry["name"]) for entry in document["categories"])
    except (KeyError, TypeError) as error:
        raise DatasetError(f"{source.path}: every category needs an integer id and a name ({error!r})") from error
    return tuple(categories), len(document["images"])


class DataFormat(NamedTuple):
    """How data sets of one format are recognised and read.

    Attributes:
        name: for messages.
        detect: tells from a path that exists, a file or a folder, whether it is of this format; looks at little.
        read: (path, image folder or None) -> the source; raises DatasetError for what is not as the format asks.
    """

    name: str
    detect: Callable[[str], bool]
    read: Callable[[str, str | None], DataSource]


_registered: dict[str, DataFormat] = {}


def register_format(data_format: DataFormat) -> None:
    """Make a format of one's own known, e.g. in a config file; it is asked before the package's."""
    _registered[data_format.name] = data_format


def known_formats() -> list[DataFormat]:
    """In the order in which they are asked."""
    return [*_registered.values(), *_package_formats()]


@functools.cache
def _package_formats() -> tuple[DataFormat, ...]:
    """The `FORMAT` of each file in `formats/`, by the files' names. They import this module, so it finds them late."""
    folder = Path(__file__).with_name("formats")
    names = sorted(module.name for module in pkgutil.iter_modules([str(folder)]))
    return tuple(importlib.import_module(f"dinov2_detrex.data.formats.{name}").FORMAT for name in names)


def read_source(path: str | os.PathLike[str], image_root: str | os.PathLike[str] | None = None) -> DataSource:
    """The data set at a path, by the first format that recognises it.

    Args:
        path: a file or folder of annotations; `~` is the home folder.
        image_root: the folder that the images' file names are relative to, where the format does not say itself.

    Raises:
        DatasetNotFoundError: nothing is there.
        DatasetError: it is of no known format.
    """
    given = expanded(path)
    if given is None:
        raise DatasetNotFoundError("no annotations are given (data.train.json=...)")
    if not os.path.exists(given):
        raise DatasetNotFoundError(f"{given} is not there; the annotations of a data set are expected")
    for data_format in known_formats():
        if data_format.detect(given):
            return data_format.read(given, expanded(image_root))
    names = ", ".join(data_format.name for data_format in known_formats())
    raise DatasetError(f"{given} is of no known format; known are: {names}")


def expanded(path: str | os.PathLike[str] | None) -> str | None:
    """With `~` as the home folder, which a shell leaves as it is in `data.train.json=~/my.json`; None for ""."""
    return os.path.expanduser(os.fspath(path)) if path else None


def file_version(path: str) -> tuple[int, int]:
    """(time of change / ns, size / bytes): a `DataSource.version` for what is one file."""
    stat = os.stat(path)
    return stat.st_mtime_ns, stat.st_size


def class_names_by_id(path: str | os.PathLike[str]) -> dict[int, str]:
    """{category id: name} of a data set, by ascending id: the order of the contiguous indices 0..C-1."""
    return read_source(path).classes


def count_classes(path: str | os.PathLike[str]) -> int:
    """Number of categories that a data set defines, with and without boxes."""
    return len(read_source(path).classes)


def count_images(path: str | os.PathLike[str]) -> int:
    """Number of images that a data set lists, with and without boxes.

    Raises:
        DatasetError: there are none.
    """
    count = read_source(path).num_images
    if not count:
        raise DatasetError(f"{os.fspath(path)} lists no images")
    return count
