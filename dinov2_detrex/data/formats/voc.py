"""Pascal VOC's XML, a file for each image (Everingham et al. 2010; VOC2012 devkit), in a folder of one of three forms:

    Annotations/*.xml, JPEGImages/*.jpg, ImageSets/Main/train.txt, ...        VOC's own
    train/*.xml and *.jpg, valid/..., test/...                                Roboflow's export
    *.xml and *.jpg                                                           LabelImg: a single set

**Coordinates.** VOC counts pixels from 1 and includes the last: a box (xmin=1, xmax=W) covers the whole width W. In
continuous pixels, where the image reaches from 0 to W, that is x = xmin - 1, width = xmax - xmin + 1; detectron2 reads
VOC so, too. Boxes of a tool that counted from 0 come out one pixel off at most; its 0 is taken for the border.
A box with xmax = xmin comes from a click without a drag, not from an object one pixel wide: it has no area, and the
check skips and counts it.

**Difficult** objects become `ignore`, which the check makes a crowd and counts: as by VOC's own rule neither finding
nor missing one counts in evaluation, and they are not trained on.

**Classes** are named in the annotations alone. They are those of all the folder's files, in alphabetical order from id
0, so that every split has the same. A file ImageSets/classes.txt, as `write` leaves it, gives their order instead, a
name in each line, and keeps classes without objects.

XML that declares a document type is refused, so that no entity is expanded.
"""

import functools
import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree
from xml.parsers import expat

from dinov2_detrex.data.errors import DatasetError
from dinov2_detrex.data.folders import files_in, finite_number, in_order, part_folders, read_text
from dinov2_detrex.data.source import SPLIT_MARK, DataFormat, DataSource, Document, Writer, files_version
from dinov2_detrex.runtime.files import write_text

ANNOTATIONS, IMAGES, IMAGE_SETS, CLASSES = "Annotations", "JPEGImages", "ImageSets/Main", "ImageSets/classes.txt"
_OF_A_CLASS = re.compile(r"^\S+\s+(-1|0|1)$")  # a line of e.g. cat_train.txt: which images show a cat
_ROOT_TAG = re.compile(rb"<annotation[\s>]")  # other tools write XML with other roots


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
    """A folder with XML files in Annotations/, or with VOC's XML in it or in folders named as parts."""
    if not os.path.isdir(path):
        return False
    return _has_xml(Path(path, ANNOTATIONS)) or any(map(_has_vocs_xml, (*part_folders(path), path)))


def _has_xml(folder: Path) -> bool:
    return next(files_in(folder, ".xml"), None) is not None


def _has_vocs_xml(folder: str | Path) -> bool:
    """Whether any XML right in a folder begins as VOC's does; the first is most often the answer."""
    for file in files_in(folder, ".xml"):
        with open(file, "rb") as opened:
            if _ROOT_TAG.search(opened.read(1024)):
                return True
    return False


def splits(path: str) -> list[str]:
    """The folders that are parts, or else the lists in ImageSets/Main but for the ones per class; [] without any."""
    if not _has_xml(Path(path, ANNOTATIONS)):
        return [folder.name for folder in part_folders(path) if _has_vocs_xml(folder)]
    return in_order([file.stem for file in files_in(Path(path, IMAGE_SETS), ".txt") if not _is_of_a_class(file)])


def _is_of_a_class(file: Path) -> bool:
    with open(file, encoding="utf-8", errors="replace") as lines:
        return bool(_OF_A_CLASS.match(next((line.strip() for line in lines if line.strip()), "")))


def annotation_files(path: str) -> list[Path]:
    """All XML files of a data set, of whatever part, in order."""
    folders = [Path(path, ANNOTATIONS)] if _has_xml(Path(path, ANNOTATIONS)) else [Path(path, s) for s in splits(path)]
    return sorted(file for folder in folders or [Path(path)] for file in files_in(folder, ".xml"))


def read(path: str, image_root: str | None, split: str | None = None) -> DataSource:
    """The source of a split, of all annotations where there are none; the images lie as the folder's form has them."""
    files = [str(file) for file in annotation_files(path)] + [str(Path(path, CLASSES))]
    files += [str(Path(path, IMAGE_SETS, f"{split}.txt"))] if split else []
    image_root = image_root or _image_folder(path, split)
    return DataSource(
        path=path if split is None else f"{path}{SPLIT_MARK}{split}",
        image_root=image_root,
        version=files_version(files),
        load=functools.partial(read_document, path, image_root, split),
    )


def _image_folder(path: str, split: str | None) -> str:
    """Where the images of a split lie."""
    if _has_xml(Path(path, ANNOTATIONS)):
        return str(Path(path, IMAGES))
    return path if split is None else str(Path(path, split))


def read_document(path: str, image_root: str, split: str | None = None) -> Document:
    """A split in COCO's form.

    Raises:
        DatasetError: naming file, line and value of what is not as the format asks.
    """
    files = annotation_files(path)
    everything = _read_all(tuple(files), files_version(map(str, files)))
    names = _class_names(path, everything)
    index_of = {name: index for index, name in enumerate(names)}
    on_disk = _by_stem(image_root)
    images, annotations = [], []
    for image_id, file in enumerate(_files_of(path, split, files), start=1):
        image = everything[file]
        size = {} if image.size_wh is None else {"width": image.size_wh[0], "height": image.size_wh[1]}
        images.append({"id": image_id, "file_name": _image_name(file.stem, image.file_name, on_disk)} | size)
        for entry in image.objects:
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": index_of[entry.name],
                    "bbox": entry.bbox,
                    "area": entry.bbox[2] * entry.bbox[3],
                    "iscrowd": 0,
                }
                | ({"ignore": 1} if entry.difficult else {})
            )
    categories = [{"id": index, "name": name} for index, name in enumerate(names)]
    return {"images": images, "annotations": annotations, "categories": categories}


@functools.lru_cache(maxsize=4)
def _read_all(files: tuple[Path, ...], version: tuple[int, ...]) -> dict[Path, VocImage]:
    """{file: content} of all annotations, which every split needs for the names of the classes."""
    return {file: read_xml(file) for file in files}


def _class_names(path: str, everything: dict[Path, VocImage]) -> list[str]:
    """The names in the order of their ids: as the folder lists them, else by alphabet."""
    listed = Path(path, CLASSES)
    if not listed.is_file():
        return sorted({entry.name for image in everything.values() for entry in image.objects})
    names = [line.strip() for line in read_text(listed).splitlines() if line.strip()]
    for file, image in everything.items():
        for entry in image.objects:
            if entry.name not in names:
                raise DatasetError(f"{file}: the class {entry.name!r} is not in {listed}")
    return names


def _files_of(path: str, split: str | None, files: list[Path]) -> Iterator[Path]:
    """The annotations of a split: those of its folder, or those that its list names, each of which must be there."""
    file = Path(path, IMAGE_SETS, f"{split}.txt")
    if split is None or not _has_xml(Path(path, ANNOTATIONS)):
        yield from (one for one in files if split is None or one.parent.name == split)
        return
    known = {one.stem: one for one in files}
    for number, line in enumerate(read_text(file).splitlines(), start=1):
        name = line.strip()
        if not name:
            continue
        if name not in known:
            raise DatasetError(f"{file}, line {number}: {name!r} has no file {ANNOTATIONS}/{name}.xml")
        yield known[name]


def _by_stem(image_root: str) -> dict[str, list[str]]:
    """{stem: names of image files} of a folder; {} where it is absent, which the check says of each image."""
    found: dict[str, list[str]] = {}
    for name in sorted(os.listdir(image_root)) if os.path.isdir(image_root) else []:
        if os.path.splitext(name)[1].lower() != ".xml":
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
    value = finite_number(text)
    if value is None:
        raise DatasetError(f"{os.fspath(file)}, line {element.get('line')}: {key} is {text!r}, not a number")
    return value


# --------------------------------------------------------------------------------------------------------- writing


def write(folder: Path, documents: dict[str, Document]) -> Counter:
    """VOC's own folder, with the classes' names and order beside it; crowds become difficult objects.

    Boxes of at most one pixel's width or height are left out and counted: VOC has no such box.

    Raises:
        DatasetError: a class's name occurs twice, or does not survive XML.
    """
    too_thin = 0
    names = _names_by_id(next(iter(documents.values()))["categories"])
    write_text(folder / CLASSES, "".join(f"{name}\n" for name in names.values()))
    for part, document in documents.items():
        objects: dict[Any, list[ElementTree.Element]] = {image["id"]: [] for image in document["images"]}
        for annotation in document["annotations"]:
            element = _object_element(annotation, names)
            too_thin += element is None
            objects[annotation["image_id"]] += [] if element is None else [element]
        stems = []
        for image in document["images"]:
            stems.append(os.path.splitext(image["file_name"])[0])
            write_text(folder / ANNOTATIONS / f"{stems[-1]}.xml", _xml(image, objects[image["id"]]))
        if part:
            write_text(folder / IMAGE_SETS / f"{part}.txt", "".join(f"{stem}\n" for stem in stems))
    return Counter({"boxes of at most one pixel's width or height left out": too_thin} if too_thin else {})


def _names_by_id(categories: list[dict]) -> dict[int, str]:
    """{category id: name} by ascending id."""
    names = {entry["id"]: str(entry["name"]) for entry in sorted(categories, key=lambda entry: entry["id"])}
    for name in names.values():
        if list(names.values()).count(name) > 1:
            raise DatasetError(f"two classes are named {name!r}, which VOC's form cannot tell apart: rename one")
        if not name.isprintable() or name != name.strip() or not name:
            raise DatasetError(f"the class name {name!r} has blanks at its ends, or no printable letters: rename it")
    return names


def _object_element(annotation: dict, names: dict[int, str]) -> ElementTree.Element | None:
    """The XML of an object; None where VOC has no such box."""
    x, y, w, h = annotation["bbox"]
    corners = {"xmin": x + 1, "ymin": y + 1, "xmax": x + w, "ymax": y + h}
    texts = {key: f"{value:.4f}".rstrip("0").rstrip(".") for key, value in corners.items()}
    if float(texts["xmax"]) <= float(texts["xmin"]) or float(texts["ymax"]) <= float(texts["ymin"]):
        return None
    element = ElementTree.Element("object")
    for key, text in (("name", names[annotation["category_id"]]), ("pose", "Unspecified"), ("truncated", "0")):
        ElementTree.SubElement(element, key).text = text
    ElementTree.SubElement(element, "difficult").text = str(int(bool(annotation.get("iscrowd"))))
    box = ElementTree.SubElement(element, "bndbox")
    for key, text in texts.items():
        ElementTree.SubElement(box, key).text = text
    return element


def _xml(image: dict, objects: list[ElementTree.Element]) -> str:
    root = ElementTree.Element("annotation")
    ElementTree.SubElement(root, "filename").text = image["file_name"]
    size = ElementTree.SubElement(root, "size")
    for key, value in (("width", image["width"]), ("height", image["height"]), ("depth", 3)):
        ElementTree.SubElement(size, key).text = str(value)
    root.extend(objects)
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode") + "\n"


FORMAT = DataFormat("Pascal VOC", detect, read, splits, Writer(lambda part: IMAGES, flat=True, write=write))
