"""One data set on the disk, whatever its format: which classes, which image folder, how many images, which records.

    source = read_source("train.json", "images")
    source.classes, source.num_images, source.load()
    read_source("folder#train")  # one part of a folder that holds several

What can be read is said by the files in `formats/`, one format each, and by `register_format`.
"""

import functools
import hashlib
import importlib
import os
import pkgutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from dinov2_detrex.data.errors import DatasetError, DatasetNotFoundError
from dinov2_detrex.data.schema import read_categories, root_category, told_apart, with_lists

SPLIT_MARK = "#"
VALIDATION = ("val", "valid", "validation")  # how the part that is evaluated on is called; the first that is there
Document = dict[str, Any]  # an instances document in COCO's form: the lists "images", "annotations", "categories"


@dataclass(frozen=True)
class DataSource:
    """One data set; equal sources hold equal data, so what was found out about one holds for the other.

    Attributes:
        path: the file or folder of annotations, and `#split` for a part of it.
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
        """{category id: name}, with and without boxes, by ascending id: the order of the contiguous indices 0..C-1.

        Names that occur more than once have their ids added; a root category, see `root`, is none of them.
        """
        return dict(_outline(replace(self, image_root=None)).classes)

    @property
    def root(self) -> str | None:
        """The name of a category above all classes that is none itself, see `root_category`; None without one."""
        return _outline(replace(self, image_root=None)).root

    @property
    def num_images(self) -> int:
        """Number of images that are listed, with and without boxes."""
        return _outline(replace(self, image_root=None)).num_images


class _Outline(NamedTuple):
    """What the properties of a source tell: ((id, name), ...) by ascending id, the root category, the images."""

    classes: tuple[tuple[int, str], ...]
    root: str | None
    num_images: int


@functools.lru_cache(maxsize=16)
def _outline(source: DataSource) -> _Outline:
    """Read once as long as the source stays the same; DatasetError for categories that are not as they should be."""
    document = with_lists(source.load(), source.path)
    reading = read_categories(document["categories"])
    if reading.faults:
        raise DatasetError(f"{source.path}: {reading.faults[0]}")
    root = root_category(reading.entries, document.get("annotations", []))
    classes = [entry for entry in reading.entries if root is None or entry["id"] != 0]
    pairs = sorted((entry["id"], entry["name"]) for entry in told_apart(classes))
    return _Outline(tuple(pairs), root, len(document["images"]))


class DataFormat(NamedTuple):
    """How data sets of one format are recognised and read.

    Attributes:
        name: for messages.
        detect: tells from a path that exists, a file or a folder, whether it is of this format; looks at little.
        read: (path, image folder or None) -> the source; raises DatasetError for what is not as the format asks. With
            `splits` it is given the name of one of them, or None, as the third argument.
        splits: the names of the parts at a path, e.g. ["train", "val"]; [] where it is a single set. None for a format
            that has no such parts.
    """

    name: str
    detect: Callable[[str], bool]
    read: Callable[..., DataSource]
    splits: Callable[[str], list[str]] | None = None


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
        path: a file or folder of annotations, or `PATH#split` for one part of it; `~` is the home folder.
        image_root: the folder that the images' file names are relative to, where the format does not say itself.

    Raises:
        DatasetNotFoundError: nothing is there.
        DatasetError: it is of no known format, has no such part, or has several of which none is named.
    """
    given = expanded(path)
    if given is None:
        raise DatasetNotFoundError("no annotations are given (data.train.json=...)")
    location, split = split_path(given)
    data_format, root = format_of(location), expanded(image_root)
    if data_format.splits is not None:
        return data_format.read(location, root, _one_split(given, split, data_format.splits(location)))
    if split is not None:
        raise DatasetError(f"{given}: {location} is of the format {data_format.name}, which has no part {split!r}")
    return data_format.read(location, root)


def _one_split(path: str, split: str | None, there: list[str]) -> str | None:
    """The split that a path names, or the only one there; None for a single set."""
    if split is None and len(there) <= 1:
        return there[0] if there else None
    if split in there:
        return split
    wanted = "several parts" if split is None else f"no part {split!r}"
    found = f"there are {', '.join(there)}; name one as FOLDER{SPLIT_MARK}{there[0]}" if there else "it is a single set"
    raise DatasetError(f"{path} has {wanted}: {found}")


def format_of(path: str) -> DataFormat:
    """The first format that recognises a file or folder; see `read_source` for the errors."""
    if not os.path.exists(path):
        raise DatasetNotFoundError(f"{path} is not there; the annotations of a data set are expected")
    for data_format in known_formats():
        if data_format.detect(path):
            return data_format
    names = ", ".join(data_format.name for data_format in known_formats())
    raise DatasetError(f"{path} is of no known format; known are: {names}")


def split_path(path: str) -> tuple[str, str | None]:
    """`FOLDER#train` -> ("FOLDER", "train"); the split is None for a path without one, or that exists as it is."""
    location, mark, split = path.rpartition(SPLIT_MARK)
    if not mark or not location or os.sep in split or os.path.exists(path):
        return path, None
    return location, split


def is_there(path: str | os.PathLike[str] | None) -> bool:
    """Whether the file or folder of a path, with or without the name of a split, exists."""
    given = expanded(path)
    return given is not None and os.path.exists(split_path(given)[0])


def part_of(folder: str | os.PathLike[str], *names: str) -> str:
    """`FOLDER#name` for the first of the names that is a part of the folder; of the first where no folder is there yet.

    Raises:
        DatasetError: the folder has no such part, or is of a format or form without parts.
    """
    location = expanded(folder) or ""
    if not os.path.exists(location):
        return f"{location}{SPLIT_MARK}{names[0]}"
    data_format = format_of(location)
    there = data_format.splits(location) if data_format.splits else []
    for name in names:
        if name in there:
            return f"{location}{SPLIT_MARK}{name}"
    found = f"its parts are {', '.join(there)}" if there else f"it is a single set of the format {data_format.name}"
    raise DatasetError(
        f"{location} has no part named {' or '.join(names)}: {found}; name what to use with data.train.json="
        f"{location}{SPLIT_MARK}PART and data.val.json=PATH{SPLIT_MARK}PART"
    )


def expanded(path: str | os.PathLike[str] | None) -> str | None:
    """With `~` as the home folder, which a shell leaves as it is in `data.train.json=~/my.json`; None for ""."""
    return os.path.expanduser(os.fspath(path)) if path else None


def file_version(path: str) -> tuple[int, int]:
    """(time of change / ns, size / bytes): a `DataSource.version` for what is one file."""
    stat = os.stat(path)
    return stat.st_mtime_ns, stat.st_size


def files_version(paths: Iterable[str]) -> tuple[int, ...]:
    """A `DataSource.version` for what is many files: it differs once one of them is added, removed or written to."""
    digest = hashlib.sha256()
    for path in sorted(paths):
        try:
            digest.update(f"{path} {file_version(path)}\n".encode(errors="surrogateescape"))
        except FileNotFoundError:
            continue
    return (int.from_bytes(digest.digest()[:8], "big"),)


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
