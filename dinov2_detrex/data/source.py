"""One data set on the disk, whatever its format: which classes, which image folder, how many images, which records.

    source = read_source("train.json", "images")
    source.classes, source.num_images, source.load()
    read_source("folder#train")  # one part of a folder that holds several
    read_source(["a#train", "b#train"])  # several as one, where their classes agree
    read_source("folder#train@held-out-0.2-seed-0")  # a fifth of a part; `@without-0.2-seed-0` is the rest

What can be read is said by the files in `formats/`, one format each, and by `register_format`.
"""

import contextlib
import functools
import hashlib
import importlib
import os
import pkgutil
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from dinov2_detrex.data.errors import DatasetError, DatasetNotFoundError
from dinov2_detrex.data.joining import Member, common_folder, join_documents
from dinov2_detrex.data.schema import read_categories, root_category, told_apart, with_lists
from dinov2_detrex.data.splitting import select, split_images

SPLIT_MARK = "#"
_SHARE = re.compile(r"@(without|held-out)-([0-9.e-]+)-seed-(\d+)$")  # behind the mark and the name of a part, if any
PathLike = str | os.PathLike[str]
Paths = PathLike | Sequence[PathLike]  # one data set, or several that are joined
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
        form: the name of its format, for messages; `read_source` fills it in.
    """

    path: str
    image_root: str | None
    version: tuple[int, ...]
    load: Callable[[], Document] = field(compare=False)
    json_file: str | None = None
    form: str = ""

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


class Writer(NamedTuple):
    """How a data set is written in a format; `conversion.py` calls it and brings the images.

    Attributes:
        image_folder: (part) -> the folder of its images, below that of the data set.
        flat: whether the images lie right in that folder, instead of in folders below it as well.
        write: (folder, {part: document}) -> what the format has no place for, counted. The documents are in COCO's
            form, sound, with boxes within their images and file names relative to the image folder. The part "" is
            that of a single set.
    """

    image_folder: Callable[[str], str]
    flat: bool
    write: Callable[[Path, dict[str, Document]], Counter]


class DataFormat(NamedTuple):
    """How data sets of one format are recognised and read.

    Attributes:
        name: for messages.
        detect: tells from a path that exists, a file or a folder, whether it is of this format; looks at little.
        read: (path, image folder or None) -> the source; raises DatasetError for what is not as the format asks. With
            `splits` it is given the name of one of them, or None, as the third argument.
        splits: the names of the parts at a path, e.g. ["train", "val"]; [] where it is a single set. None for a format
            that has no such parts.
        writer: how it is written; None for a format that is only read.
    """

    name: str
    detect: Callable[[str], bool]
    read: Callable[..., DataSource]
    splits: Callable[[str], list[str]] | None = None
    writer: Writer | None = None


_registered: dict[str, DataFormat] = {}


def register_format(data_format: DataFormat) -> None:
    """Make a format of one's own known, e.g. in a config file; it is asked before the package's."""
    _registered[data_format.name] = data_format
    (_memory.get() or {}).clear()


def known_formats() -> list[DataFormat]:
    """In the order in which they are asked."""
    return [*_registered.values(), *_package_formats()]


@functools.cache
def _package_formats() -> tuple[DataFormat, ...]:
    """The `FORMAT` of each file in `formats/`, by the files' names. They import this module, so it finds them late."""
    folder = Path(__file__).with_name("formats")
    names = sorted(module.name for module in pkgutil.iter_modules([str(folder)]))
    return tuple(importlib.import_module(f"dinov2_detrex.data.formats.{name}").FORMAT for name in names)


# ------------------------------------------------------------------------------------------- from a path to a source

_memory: ContextVar[dict | None] = ContextVar("sources that a block has read", default=None)


@contextlib.contextmanager
def each_read_once() -> Iterator[None]:
    """Within the block, and this thread, a path is looked at once: what changes there meanwhile is not seen.

    For what asks for the same sources many times over and must get the same answers, such as resolving a config: one
    look at a folder of 20,000 files costs most of a second.
    """
    if _memory.get() is not None:
        yield
        return
    token = _memory.set({})
    try:
        yield
    finally:
        _memory.reset(token)


def remembered(function):
    """Within `each_read_once`, the answer that it gave to the same arguments in the same working directory."""

    @functools.wraps(function)
    def ask(path: Paths, *others):
        memory = _memory.get()
        if memory is None:
            return function(path, *others)
        key = function.__name__, as_paths(path), *others, os.getcwd()
        if key not in memory:
            memory[key] = function(path, *others)
        return memory[key]

    return ask


def read_source(path: Paths, image_root: PathLike | None = None) -> DataSource:
    """The data set at a path, by the first format that recognises it.

    Args:
        path: a file or folder of annotations, or `PATH#split` for one part of it; `~` is the home folder. Several are
            joined, see `joining.py`; then their images are named relative to the folder that all of them lie in.
        image_root: the folder that the images' file names are relative to, where the format does not say itself.

    Raises:
        DatasetNotFoundError: nothing is there.
        DatasetError: it is of no known format or of two, has no such part, or has several of which none is named.
    """
    return _read(path, expanded(image_root))


@remembered
def _read(path: Paths, image_root: str | None) -> DataSource:
    paths = as_paths(path)
    if not paths:
        raise DatasetNotFoundError("no annotations are given (data.train.json=...)")
    sources = [_read_one(one, image_root) for one in paths]
    return sources[0] if len(sources) == 1 else _joined(sources)


def _read_one(path: str, image_root: str | None) -> DataSource:
    location, split = split_path(path)
    data_format = format_of(location)
    share = _SHARE.search(split or "")
    part = (split or "").removesuffix(share[0] if share else "") or None
    there = data_format.splits(location) if data_format.splits else []
    if part is not None and not there and (data_format.splits is None or os.path.isfile(location)):
        raise DatasetError(f"{path}: {location} is of the format {data_format.name}, which has no part {part!r}")
    split_arguments = [] if data_format.splits is None else [_one_split(path, part, there)]
    source = data_format.read(location, image_root, *split_arguments)
    source = replace(source, form=source.form or data_format.name)
    return source if share is None else _share_of(source, path, share)


def _share_of(source: DataSource, path: str, share: re.Match[str]) -> DataSource:
    """What is held out of a source, or the rest."""
    held_out, fraction, seed = share[1] == "held-out", fraction_of(share[2]), int(share[3])
    load = functools.partial(_load_share, source.load, held_out, fraction, seed)
    return replace(source, path=path, load=load, json_file=None)


def _load_share(load: Callable[[], Document], held_out: bool, fraction: float, seed: int) -> Document:
    document = load()
    return select(document, split_images(document, [1 - fraction, fraction], seed)[held_out])


def fraction_of(value: object) -> float:
    """A number between 0 and 1, given as such or as text; a DatasetError for anything else."""
    try:
        fraction = float(value)  # pyright: ignore[reportArgumentType]  what it cannot take is the error
    except (TypeError, ValueError):
        fraction = 0.0
    if not 0 < fraction < 1:
        raise DatasetError(f"{value!r} is no fraction of a data set to hold out: it lies between 0 and 1, as 0.2 does")
    return fraction


def _joined(sources: Sequence[DataSource]) -> DataSource:
    roots = [source.image_root for source in sources if source.image_root is not None]
    return DataSource(
        path=" + ".join(source.path for source in sources),
        image_root=common_folder(roots) if len(roots) == len(sources) else None,
        version=tuple(number for source in sources for number in source.version),
        load=functools.partial(_load_joined, tuple(sources)),
        form=", ".join(dict.fromkeys(source.form for source in sources)),
    )


def _load_joined(sources: Sequence[DataSource]) -> Document:
    return join_documents([Member(source.path, source.image_root or "", source.load()) for source in sources])


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
    """The format that recognises a file or folder, one's own before the package's; see `read_source` for the errors."""
    if not os.path.exists(path):
        raise DatasetNotFoundError(f"{path} is not there; the annotations of a data set are expected")
    for data_format in _registered.values():
        if data_format.detect(path):
            return data_format
    found = [data_format for data_format in _package_formats() if data_format.detect(path)]
    if len(found) > 1:
        names = " and ".join(data_format.name for data_format in found)
        raise DatasetError(f"{path} has annotations in the formats {names}; leave those of one of them there")
    if not found:
        names = ", ".join(data_format.name for data_format in known_formats())
        empty = "an empty folder" if os.path.isdir(path) and not os.listdir(path) else "of no known format"
        raise DatasetError(f"{path} is {empty}; known are: {names}")
    return found[0]


def split_path(path: str) -> tuple[str, str | None]:
    """`FOLDER#train` -> ("FOLDER", "train"); the split is None for a path without one, or that exists as it is."""
    location, mark, split = path.rpartition(SPLIT_MARK)
    if not mark or not location or os.sep in split or os.path.exists(path):
        return path, None
    return location, split


def is_there(path: Paths | None) -> bool:
    """Whether the files or folders of all paths, with or without the name of a split, exist; False for no path."""
    paths = as_paths(path)
    return bool(paths) and all(os.path.exists(split_path(one)[0]) for one in paths)


# ------------------------------------------------------------------------------------------------------------- paths


def as_paths(path: Paths | None) -> tuple[str, ...]:
    """One path or several, with `~` as the home folder; () for none."""
    several = [path] if isinstance(path, str | os.PathLike) else path or ()
    return tuple(text for one in several if (text := expanded(one)))


def expanded(path: PathLike | None) -> str | None:
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


def class_names_by_id(path: Paths) -> dict[int, str]:
    """{category id: name} of a data set, by ascending id: the order of the contiguous indices 0..C-1."""
    return read_source(path).classes


def count_classes(path: Paths) -> int:
    """Number of categories that a data set defines, with and without boxes."""
    return len(read_source(path).classes)


def count_images(path: Paths) -> int:
    """Number of images that a data set lists, with and without boxes.

    Raises:
        DatasetError: there are none.
    """
    count = read_source(path).num_images
    if not count:
        raise DatasetError(f"{' + '.join(as_paths(path))} lists no images")
    return count
