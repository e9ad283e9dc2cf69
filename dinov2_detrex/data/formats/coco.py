"""COCO's instances JSON, alone or in a folder with its images (Lin et al. 2014; cocodataset.org, "Data format").

    train/_annotations.coco.json, train/*.jpg, valid/..., test/...            Roboflow's export
    annotations/instances_train2017.json, train2017/*.jpg, ...                COCO's own, images/train2017/ as well
    train.json, val.json, train/, val/                                        by name
    anything.json, images/                                                    a single set

A JSON is a part of its folder by the folder of that name that it lies in, or by the one such word in its own name:
`instances_train2017.json` is train. Where two JSONs would be the same part, each goes by its full name. The images lie
in the first of the likely folders that holds one of the JSON's first images.
"""

import functools
import json
import mmap
import os
import re
from collections import Counter
from pathlib import Path

from dinov2_detrex.data.errors import DatasetError
from dinov2_detrex.data.folders import PARTS, files_in, in_order, part_folders
from dinov2_detrex.data.schema import with_lists
from dinov2_detrex.data.source import SPLIT_MARK, DataFormat, DataSource, Document, Writer, file_version
from dinov2_detrex.runtime.files import write_json
from dinov2_detrex.runtime.garbage import collection_paused

ANNOTATIONS, PREFIX = "annotations", "instances_"
_WHOLE = "all"  # what a single set is called
_PROBED = 20  # images of a JSON that its folder is recognised by
_FILE_NAME = re.compile(rb'"file_name"\s*:\s*("(?:[^"\\]|\\.)*")')
_CHUNK_BYTES = 1 << 20


def detect(path: str) -> bool:
    """A file that is named *.json or begins as a JSON object does, or a folder with a JSON in COCO's format."""
    if os.path.isdir(path):
        return bool(json_files(path))
    if not os.path.isfile(path):
        return False
    if path.lower().endswith(".json"):
        return True
    with open(path, "rb") as file:
        return file.read(64).lstrip().startswith(b"{")


def splits(path: str) -> list[str]:
    """The parts of a folder; [] for a file, and for a folder with one JSON that is named after no part."""
    found = json_files(path) if os.path.isdir(path) else {}
    return [] if len(found) == 1 and not set(found) & set(PARTS) else list(found)


def read(path: str, image_root: str | None, split: str | None = None) -> DataSource:
    """The source of an instances JSON, or of a part of a folder.

    Beside a JSON that is named itself nothing says where its images lie: they are in `image_root`.
    """
    if not os.path.isdir(path):
        return _source(path, Path(path), image_root)
    found = json_files(path)
    name = split or next(iter(found))
    image_root = image_root or image_folder(found[name], path)
    return _source(path if split is None else f"{path}{SPLIT_MARK}{split}", found[name], image_root)


def _source(path: str, file: Path, image_root: str | None) -> DataSource:
    load = functools.partial(read_document, str(file))
    return DataSource(path, image_root, file_version(str(file)), load, json_file=str(file))


def read_document(path: str) -> Document:
    """The JSON as a dict with at least the lists "images" and "categories"; its "annotations", if any, are one, too.

    Raises:
        DatasetError: it is no JSON, or not COCO's format.
    """
    with open(path, encoding="utf-8-sig") as file, collection_paused():
        try:
            document = json.load(file)
        except (ValueError, RecursionError) as error:
            raise DatasetError(f"{path} is not valid JSON: {error}") from error
    return with_lists(document, path)


# ------------------------------------------------------------------------------------------------------ the folder


def json_files(path: str) -> dict[str, Path]:
    """{part: its JSON} of a folder, in the order of `PARTS`; {} where none is in COCO's format.

    Raises:
        DatasetError: a part's folder holds several.
    """
    found = _in_part_folders(path)
    if found:
        return found
    in_annotations = _instances(Path(path, ANNOTATIONS))
    named = [file for file in in_annotations if file.name.startswith(PREFIX)]
    files = named or in_annotations or _instances(Path(path))
    by_word = {_word(file) or _full_name(file): file for file in files}
    by_name = by_word if len(by_word) == len(files) else {_full_name(file): file for file in files}
    return {name: by_name[name] for name in in_order(list(by_name))}


def _in_part_folders(path: str) -> dict[str, Path]:
    found = {}
    for folder in part_folders(path):
        files = _instances(folder)
        if len(files) > 1:
            shown = ", ".join(file.name for file in files[:3])
            raise DatasetError(f"{folder} holds {len(files)} JSONs in COCO's format ({shown}); leave one there")
        if files:
            found[folder.name] = files[0]
    return found


def _instances(folder: Path) -> list[Path]:
    """The JSONs right in a folder that have COCO's two lists, by name."""
    return sorted(file for file in files_in(folder, ".json") if _has_lists(str(file), file_version(str(file))))


@functools.lru_cache(maxsize=256)
def _has_lists(file: str, version: tuple[int, int]) -> bool:
    """Whether the keys occur somewhere: told without parsing what may be half a gigabyte."""
    if not version[1] or not os.path.isfile(file):
        return False
    with open(file, "rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return all(content.find(key) >= 0 for key in (b'"images"', b'"categories"'))


def _word(file: Path) -> str | None:
    """The part that a JSON's name speaks of, if it is one."""
    words = set(re.findall("[a-z]+", file.stem.lower())) & set(PARTS)
    return words.pop() if len(words) == 1 else None


def _full_name(file: Path) -> str:
    return file.stem.removeprefix(PREFIX)


# ------------------------------------------------------------------------------------------------------ its images


def image_folder(file: Path, root: str | os.PathLike[str] | None = None) -> str:
    """Where the images of a JSON lie: the likely folder that holds one of its first, else the first that is there.

    Args:
        file: the JSON.
        root: the folder of the data set, which the JSON may lie deeper in; None where that is not known.
    """
    around = file.parent.parent if file.parent.name == ANNOTATIONS else file.parent
    root, name = Path(root or around), _full_name(file)
    names = dict.fromkeys((name, _word(file) or name))
    inside = [Path(parent, part) for part in names for parent in (root, root / "images")]
    if file.parent.name != ANNOTATIONS and file.parent != root:  # the folder of a part
        inside = [file.parent, file.parent / "images", *inside]
    others = sorted(Path(entry.path) for entry in os.scandir(root) if entry.is_dir())
    there = [folder for folder in (*inside, root / "images", root / "data", root, *others) if folder.is_dir()]
    listed = _first_file_names(str(file), file_version(str(file)))
    return str(next((folder for folder in there if any((folder / one).is_file() for one in listed)), there[0]))


@functools.lru_cache(maxsize=64)
def _first_file_names(file: str, version: tuple[int, int]) -> tuple[str, ...]:
    """The first few names of images in a JSON, read as text up to there."""
    found: list[bytes] = []
    rest = b""
    with open(file, "rb") as opened:
        while len(found) < _PROBED and (chunk := opened.read(_CHUNK_BYTES)):
            text = rest + chunk
            matches = list(_FILE_NAME.finditer(text))
            found += [match[1] for match in matches]
            rest = text[matches[-1].end() if matches else max(0, len(text) - 4096) :]
    return tuple(name for name in map(_decoded, found[:_PROBED]) if name)


def _decoded(quoted: bytes) -> str:
    try:
        return json.loads(quoted)
    except ValueError:
        return ""


# --------------------------------------------------------------------------------------------------------- writing


def write(folder: Path, documents: dict[str, Document]) -> Counter:
    """COCO's own layout: annotations/instances_train.json beside train/; ids, masks and crowds as they are."""
    for part, document in documents.items():
        write_json(folder / ANNOTATIONS / f"{PREFIX}{part or _WHOLE}.json", document)
    return Counter()


FORMAT = DataFormat("COCO", detect, read, splits, Writer(lambda part: part or _WHOLE, flat=False, write=write))
