"""A checked data set written in another form, as a new folder with its images: COCO's, YOLO's or Pascal VOC's.

Boxes stay as they are but for rounding: COCO's not at all, YOLO's by 1e-8 of the image's side, VOC's by 1e-4 pixels.
What reaches beyond its image, by less than the pixel that the check lets pass, is clipped. Masks and keypoints go to
COCO alone. Images keep their names where the form allows it, without the folders that all of a part have in common.
"""

import contextlib
import os
import re
import secrets
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from dinov2_detrex.data.check import DatasetReport
from dinov2_detrex.data.errors import DatasetError
from dinov2_detrex.data.folders import PARTS
from dinov2_detrex.data.source import DataFormat, DataSource, Document, Writer, known_formats
from dinov2_detrex.runtime.errors import UsageError

_UNFIT = re.compile("[\ud800-\udfff\x00-\x1f\x7f]")  # in a file's name: bytes that are no UTF-8, control characters


class Checked(NamedTuple):
    """A sound document in COCO's form, and the folder of its images."""

    document: Document
    image_root: str


class _Placed(NamedTuple):
    """An image file, and where it goes below the new folder."""

    file: str
    place: str


def checked(report: DatasetReport, source: DataSource) -> Checked:
    """The repaired document of a report on a source; a DatasetError where it found something harmful."""
    report.raise_if_harmful()
    return Checked(report.repaired, source.image_root or "")


def writable_format(name: str) -> DataFormat:
    """The format of a name such as "coco", "yolo" or "voc": the last word of its full one, in any case."""
    formats = {entry.name.split()[-1].lower(): entry for entry in known_formats() if entry.writer is not None}
    if name.lower() not in formats:
        raise UsageError(f"there is no form {name!r} to write: there are {', '.join(sorted(formats))}")
    return formats[name.lower()]


def require_new(folder: str | os.PathLike[str]) -> None:
    """A DatasetError where something is at a path already, so that nothing of the user's is written over."""
    if os.path.lexists(folder) and not (os.path.isdir(folder) and not os.listdir(folder)):
        raise DatasetError(f"{os.fspath(folder)} is there already, and nothing is written over: name a new folder")


def write_folder(
    parts: Mapping[str, Checked], form: str, folder: str | os.PathLike[str], images: str = "link"
) -> Counter:
    """Write a data set; the folder appears complete, or not at all.

    Args:
        parts: by names of `folders.PARTS`; "" for a single set. They have the same categories.
        form: see `writable_format`.
        folder: of the new data set; not there, or empty.
        images: "link" for symbolic links to where they are, "copy" for copies.

    Returns:
        what the form has no place for, or had to have otherwise -> how often.

    Raises:
        DatasetError: something is there already, or the form cannot hold a class or an image; nothing is written.
    """
    writer = writable_format(form).writer
    assert writer is not None
    require_new(folder)
    documents, placed, remarks = _arranged(parts, writer)
    with _appearing(folder) as unfinished:
        remarks += writer.write(unfinished, documents)
        for file, place in placed:
            _bring(file, unfinished / place, images)
    return remarks


def write_lists(parts: Mapping[str, Checked], folder: str | os.PathLike[str]) -> None:
    """`train.txt`, ... with the absolute path of an image in each line, in a new folder; see `write_folder`."""
    with _appearing(folder) as unfinished:
        for part, (document, image_root) in parts.items():
            files = [os.path.abspath(os.path.join(image_root, image["file_name"])) for image in document["images"]]
            (unfinished / f"{part}.txt").write_bytes(b"".join(os.fsencode(f"{file}\n") for file in files))


def convertible(parts: dict[str, DataSource]) -> dict[str, DataSource]:
    """The parts that every form has a name for, or a single set; a DatasetError where there are others alone."""
    if set(parts) == {""}:
        return parts
    usual = {name: source for name, source in parts.items() if name in PARTS}
    if not usual:
        raise DatasetError(f"none of the parts {', '.join(parts)} is train, val or test: name one as FOLDER#PART")
    return usual


@contextlib.contextmanager
def _appearing(folder: str | os.PathLike[str]) -> Iterator[Path]:
    """A folder to fill, which takes its name when the block ends well and else is removed."""
    target = Path(folder).expanduser().absolute()
    require_new(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_name(f".unfinished-{target.name}-{secrets.token_hex(4)}")
    try:
        unfinished.mkdir()
        yield unfinished
        os.replace(unfinished, target)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise


def _arranged(parts: Mapping[str, Checked], writer: Writer) -> tuple[dict[str, Document], list[_Placed], Counter]:
    """The documents with the images' new names, where the images go, and how many had to be renamed."""
    documents, placed, remarks = {}, [], Counter()
    taken: set[str] = set()
    for part, (document, image_root) in parts.items():
        folder = writer.image_folder(part)
        old = [image["file_name"] for image in document["images"]]
        new = _new_names(old, folder, writer.flat, taken)
        images = [image | {"file_name": name} for image, name in zip(document["images"], new)]
        documents[part] = _within_images(document | {"images": images})
        placed += [_Placed(os.path.join(image_root, was), f"{folder}/{name}") for was, name in zip(old, new)]
        renamed = sum(os.path.basename(was) != os.path.basename(name) for was, name in zip(old, new))
        remarks += Counter({"images renamed": renamed})
    return documents, placed, remarks


def _new_names(file_names: list[str], folder: str, flat: bool, taken: set[str]) -> list[str]:
    """Names below a folder, none of which differs from another, or from those taken, in its ending or case alone."""
    split = [[_UNFIT.sub("_", part) for part in Path(name).parts if part not in ("..", os.sep)] for name in file_names]
    shared = len(os.path.commonprefix([parts[:-1] for parts in split]))
    names = []
    for parts in split:
        stem, ending = os.path.splitext(("_" if flat else "/").join(part.strip() for part in parts[shared:]))
        name, number = stem, 1
        while f"{folder}/{name}".casefold() in taken:
            number += 1
            name = f"{stem}-{number}"
        taken.add(f"{folder}/{name}".casefold())
        names.append(f"{name}{ending}")
    return names


def _within_images(document: Document) -> Document:
    """The document with its boxes clipped to their images."""
    sizes = {image["id"]: (image["width"], image["height"]) for image in document["images"]}
    annotations = [a | {"bbox": _clipped(a["bbox"], *sizes[a["image_id"]])} for a in document["annotations"]]
    return document | {"annotations": annotations}


def _clipped(bbox: list[float], width: int, height: int) -> list[float]:
    x, y, w, h = bbox
    if x >= 0 and y >= 0 and x + w <= width and y + h <= height:
        return bbox
    left, top = max(x, 0), max(y, 0)
    return [left, top, min(x + w, width) - left, min(y + h, height) - top]


def _bring(file: str, place: Path, images: str) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    if images == "copy":
        shutil.copyfile(file, place)
    else:
        place.symlink_to(os.path.realpath(file))
