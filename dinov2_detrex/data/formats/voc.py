"""Pascal VOC's folder: Annotations/*.xml, JPEGImages, ImageSets/Main/*.txt (Everingham et al. 2010; VOC2012 devkit).

**Coordinates.** VOC counts pixels from 1 and includes the last: a box (xmin=1, xmax=W) covers the whole width W. In
continuous pixels, where the image reaches from 0 to W, that is x = xmin - 1, width = xmax - xmin + 1; detectron2 reads
VOC so, too. Boxes of a tool that counted from 0 come out one pixel off at most; its 0 is taken for the border.
A box with xmax = xmin comes from a click without a drag, not from an object one pixel wide: it has no area, and the
check skips and counts it.

**Difficult** objects become `ignore`, which the check makes a crowd and counts: as by VOC's own rule neither finding
nor missing one counts in evaluation, and they are not trained on.

**Classes** are named in the annotations alone. They are those of all the folder's files, in alphabetical order from id
0, so that every split has the same.

XML that declares a document type is refused, so that no entity is expanded.
"""

import functools
import math
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree
from xml.parsers import expat

from dinov2_detrex.data.errors import DatasetError
from dinov2_detrex.data.source import SPLIT_MARK, DataFormat, DataSource, Document, files_version

ANNOTATIONS, IMAGES, IMAGE_SETS = "Annotations", "JPEGImages", "ImageSets/Main"
_FIRST = ("train", "val", "valid", "validation", "test")  # the order in which splits are named
_OF_A_CLASS = re.compile(r"^\S+\s+(-1|0|1)$")  # a line of e.g. cat_train.txt: which images show a cat


class VocObject(NamedTuple):
    """One object of a file: its class, XYWH box in pixels from the top left corner (0, 0), and `difficult`."""

    name: str
    bbox: list[float]
    difficult: bool


class VocImage(NamedTuple):
    """One file: the image's name as it says, "" if it does not, (width, height) if it says them, and its objects."""

    file_name: str
    size_wh: tuple[int, int] | None
    objects: list[VocObject]


# ------------------------------------------------------------------------------------------------------ the folder


def detect(path: str) -> bool:
    """A folder with XML files in Annotations/."""
    folder = os.path.join(path, ANNOTATIONS)
    return os.path.isdir(folder) and any(name.endswith(".xml") for name in os.listdir(folder))


def splits(path: str) -> list[str]:
    """The lists of images in ImageSets/Main, but for the ones per class; [] where there are none."""
    files = sorted(Path(path, IMAGE_SETS).glob("*.txt"))
    names = [file.stem for file in files if not _OF_A_CLASS.match(_first_line(file))]
    return sorted(names, key=lambda name: (_FIRST.index(name) if name in _FIRST else len(_FIRST), name))


def read(path: str, image_root: str | None, split: str | None = None) -> DataSource:
    """The source of a split, of all annotations where there are none; the images lie in JPEGImages if not elsewhere."""
    folder = Path(path)
    files = [str(file) for file in folder.joinpath(ANNOTATIONS).glob("*.xml")]
    files += [str(folder / IMAGE_SETS / f"{split}.txt")] if split else []
    image_root = image_root or str(folder / IMAGES)
    return DataSource(
        path=path if split is None else f"{path}{SPLIT_MARK}{split}",
        image_root=image_root,
        version=files_version(files),
        load=functools.partial(read_document, path, image_root, split),
    )


def read_document(path: str, image_root: str, split: str | None = None) -> Document:
    """A split in COCO's form.

    Raises:
        DatasetError: naming file, line and value of what is not as the format asks.
    """
    files = sorted(Path(path, ANNOTATIONS).glob("*.xml"))
    everything = _read_all(path, files_version(map(str, files)))
    stems = [file.stem for file in files] if split is None else list(_listed(path, split, everything))
    names = sorted({entry.name for image in everything.values() for entry in image.objects})
    on_disk = _by_stem(image_root)
    images, annotations = [], []
    for image_id, stem in enumerate(stems, start=1):
        image = everything[stem]
        size = {} if image.size_wh is None else {"width": image.size_wh[0], "height": image.size_wh[1]}
        images.append({"id": image_id, "file_name": _image_name(stem, image.file_name, on_disk)} | size)
        for entry in image.objects:
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": names.index(entry.name),
                    "bbox": entry.bbox,
                    "area": entry.bbox[2] * entry.bbox[3],
                    "iscrowd": 0,
                }
                | ({"ignore": 1} if entry.difficult else {})
            )
    categories = [{"id": index, "name": name} for index, name in enumerate(names)]
    return {"images": images, "annotations": annotations, "categories": categories}


@functools.lru_cache(maxsize=4)
def _read_all(path: str, version: tuple[int, ...]) -> dict[str, VocImage]:
    """{stem: content} of all annotations, which every split needs for the names of the classes."""
    return {file.stem: read_xml(file) for file in sorted(Path(path, ANNOTATIONS).glob("*.xml"))}


def _listed(path: str, split: str, known: dict[str, VocImage]) -> Iterator[str]:
    """The names in a split's list, each of which must have its annotations."""
    file = Path(path, IMAGE_SETS, f"{split}.txt")
    for number, line in enumerate(_text(file).splitlines(), start=1):
        name = line.strip()
        if not name:
            continue
        if name not in known:
            raise DatasetError(f"{file}, line {number}: {name!r} has no file {ANNOTATIONS}/{name}.xml")
        yield name


def _by_stem(image_root: str) -> dict[str, list[str]]:
    """{stem: file names} of a folder; {} where it is absent, which the check says of each image."""
    found: dict[str, list[str]] = {}
    for name in sorted(os.listdir(image_root)) if os.path.isdir(image_root) else []:
        found.setdefault(Path(name).stem, []).append(name)
    return found


def _image_name(stem: str, stated: str, on_disk: dict[str, list[str]]) -> str:
    """The file with the annotations' own stem, as VOC has it.

    What the XML states decides only where that leaves a doubt: it is often a name from before a file was renamed.
    """
    candidates = on_disk.get(stem, [])
    if stated in candidates or (not candidates and stated in on_disk.get(Path(stated).stem, [])):
        return stated
    return candidates[0] if candidates else f"{stem}.jpg"


def _first_line(file: Path) -> str:
    with open(file, encoding="utf-8", errors="replace") as lines:
        return next((line.strip() for line in lines if line.strip()), "")


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DatasetError(f"{file} is not UTF-8 text: {error}") from error


# -------------------------------------------------------------------------------------------------------- one file


def read_xml(file: str | os.PathLike[str]) -> VocImage:
    """The content of one annotation file.

    Raises:
        DatasetError: it is no XML, declares a document type, or a name, a size or a box is missing or no number.
    """
    root = _parse(file)
    return VocImage(
        file_name=os.path.basename((root.findtext("filename") or "").strip().replace("\\", "/")),
        size_wh=_size(file, root.find("size")),
        objects=[_object(file, element) for element in root.findall("object")],
    )


def _parse(file: str | os.PathLike[str]) -> ElementTree.Element:
    """The root of the document; every element has its line as the attribute "line", and no other."""
    parser, builder = expat.ParserCreate(), ElementTree.TreeBuilder()

    def start(tag: str, _: dict[str, str]) -> None:
        builder.start(tag, {"line": str(parser.CurrentLineNumber)})

    def refuse(*_: object) -> None:
        line = parser.CurrentLineNumber
        raise DatasetError(f"{os.fspath(file)}, line {line}: a DOCTYPE is not read, since it may define entities")

    parser.StartElementHandler, parser.EndElementHandler = start, builder.end
    parser.CharacterDataHandler, parser.StartDoctypeDeclHandler = builder.data, refuse
    try:
        parser.Parse(Path(file).read_bytes(), True)
    except (expat.ExpatError, ValueError, LookupError) as error:  # the latter two for encodings
        if isinstance(error, DatasetError):
            raise
        raise DatasetError(f"{os.fspath(file)} is not valid XML: {error}") from error
    return builder.close()


def _size(file: str | os.PathLike[str], element: ElementTree.Element | None) -> tuple[int, int] | None:
    """(width, height) in pixels; None where they are not given, or 0 as some tools write them."""
    if element is None or element.find("width") is None or element.find("height") is None:
        return None
    width, height = (_number(file, element, key) for key in ("width", "height"))
    return (int(width), int(height)) if width > 0 and height > 0 else None


def _object(file: str | os.PathLike[str], element: ElementTree.Element) -> VocObject:
    name = (element.findtext("name") or "").strip()
    if not name:
        raise DatasetError(f"{os.fspath(file)}, line {element.get('line')}: an object without a name")
    box = element.find("bndbox")
    if box is None:
        raise DatasetError(f"{os.fspath(file)}, line {element.get('line')}: {name!r} has no bndbox")
    corners = [_number(file, box, key) for key in ("xmin", "ymin", "xmax", "ymax")]
    difficult = element.find("difficult") is not None and _number(file, element, "difficult") != 0
    return VocObject(name, xywh_from_voc(*corners), difficult)


def xywh_from_voc(xmin: float, ymin: float, xmax: float, ymax: float) -> list[float]:
    """XYWH in continuous pixels from pixels counted from 1, the last included; see the top of this file."""
    left, top = (max(low - 1, min(low, 0)) for low in (xmin, ymin))
    width = xmax - left if xmax > xmin else xmax - xmin
    height = ymax - top if ymax > ymin else ymax - ymin
    return [left, top, width, height]


def _number(file: str | os.PathLike[str], parent: ElementTree.Element, key: str) -> float:
    """The number in a child element."""
    element = parent.find(key)
    if element is None:
        raise DatasetError(f"{os.fspath(file)}, line {parent.get('line')}: {parent.tag} has no {key}")
    text = (element.text or "").strip()
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise DatasetError(f"{os.fspath(file)}, line {element.get('line')}: {key} is {text!r}, not a number")
    return value


FORMAT = DataFormat("Pascal VOC", detect, read, splits)
