"""YOLO's folder: a data.yaml, and beside the images a text file for each (docs.ultralytics.com/datasets/detect).

A line is `class cx cy w h`, relative to the upright image's size; or `class x1 y1 x2 y2 ...`, a polygon, of which the
bounding box is taken; with `kpt_shape` in the data.yaml the keypoints behind the box are left out. Class i has the
category id i. An image without a text file, or with an empty one, is an image without objects.

data.yaml: `train`, `val`, `test` (a folder, a .txt file that lists images, or a list of those), `names` (a list, or a
mapping from 0 on), `nc`, `path`. Folders are looked for under `path` and, since data sets move, beside the data.yaml;
`../train/images`, as Roboflow writes it, there too. The text of FOLDER/images/a/b.jpg is FOLDER/labels/a/b.txt, else
b.txt beside the image.
"""

import functools
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from dinov2_detrex.data.errors import DatasetError, shown
from dinov2_detrex.data.folders import IMAGE_SUFFIXES, PARTS, finite_number, read_text
from dinov2_detrex.data.image_reading import upright_image_hw
from dinov2_detrex.data.source import SPLIT_MARK, DataFormat, DataSource, Document, Writer, files_version
from dinov2_detrex.runtime.files import write_text

DESCRIPTIONS = ("data.yaml", "data.yml")
_READERS = 16
_ROUNDING = 0.01  # a relative coordinate may lie this far outside 0..1; the check clips the boxes


class LabelledBox(NamedTuple):
    """One line: the class index and the box, centre and size relative to the image's width and height."""

    label: int
    box_cxcywh_norm: tuple[float, float, float, float]


# ------------------------------------------------------------------------------------------------------ the folder


def detect(path: str) -> bool:
    """A YAML file, or a folder with a data.yaml."""
    if os.path.isdir(path):
        return any(os.path.isfile(os.path.join(path, name)) for name in DESCRIPTIONS)
    return path.lower().endswith((".yaml", ".yml"))


def splits(path: str) -> list[str]:
    """The parts that the data.yaml names; `test` only where it is there, since Roboflow names it in any case."""
    file = description_file(path)
    description = read_description(file)
    named = [name for name in PARTS if description.get(name)]
    return [name for name in named if name != "test" or _is_there(description[name], description, file)]


def _is_there(value: Any, description: dict[str, Any], file: Path) -> bool:
    try:
        return bool(_located(value, list(_roots(description, file)), "test", file))
    except DatasetError:
        return isinstance(value, list)


def read(path: str, image_root: str | None, split: str | None = None) -> DataSource:
    """The source of a split.

    Raises:
        DatasetError: the data.yaml is not as the format asks, names no such folder or, since it says where the images
            lie, an image folder is given.
    """
    file = description_file(path)
    if image_root is not None:
        raise DatasetError(f"{path}: {file} says where the images lie; leave the image folder {image_root} out")
    if split is None:
        raise DatasetError(f"{file} names no images: expected is at least one of {', '.join(PARTS)}")
    images = find_images(file, split)
    files = [str(file), *images, *map(label_file, images)]
    return DataSource(
        path=f"{path}{SPLIT_MARK}{split}",
        image_root=str(file.parent),
        version=files_version(files),
        load=functools.partial(read_document, file, split),
    )


def read_document(file: Path, split: str) -> Document:
    """A split in COCO's form, its images ordered by their paths.

    Raises:
        DatasetError: naming file, line and value of what is not as the format asks.
    """
    description = read_description(file)
    names = class_names(description, file)
    paths = find_images(file, split)
    _require_labels(paths, file, split)
    with ThreadPoolExecutor(_READERS) as pool:
        sizes_hw = list(pool.map(_image_hw, paths))
    images, annotations = [], []
    for image_id, (path, size_hw) in enumerate(zip(paths, sizes_hw), start=1):
        entry = {"id": image_id, "file_name": Path(os.path.relpath(path, file.parent)).as_posix()}
        images.append(entry | ({} if size_hw is None else {"height": size_hw[0], "width": size_hw[1]}))
        height, width = size_hw or (0, 0)
        for label, box in read_labels(label_file(path), len(names), with_keypoints="kpt_shape" in description):
            bbox = xywh_from_yolo(box, width, height)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": label,
                    "bbox": bbox,
                    "area": bbox[2] * bbox[3],
                    "iscrowd": 0,
                }
            )
    categories = [{"id": index, "name": name} for index, name in enumerate(names)]
    return {"images": images, "annotations": annotations, "categories": categories}


def _image_hw(path: str) -> tuple[int, int] | None:
    """(height, width), upright; None where the file cannot be read, of which the check speaks."""
    try:
        return upright_image_hw(path)
    except Exception:  # Pillow raises OSError, SyntaxError, ValueError, struct.error and others
        return None


# ------------------------------------------------------------------------------------------------------- data.yaml


def description_file(path: str) -> Path:
    """The data.yaml of a folder, or the YAML file itself."""
    found = [Path(path, name) for name in DESCRIPTIONS if os.path.isfile(os.path.join(path, name))]
    return found[0] if found else Path(path)


def read_description(file: Path) -> dict[str, Any]:
    """The mapping in a data.yaml; raises DatasetError for anything else."""
    try:
        content = yaml.safe_load(read_text(file))
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError for dates and numbers that are none
        raise DatasetError(f"{file} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise DatasetError(f"{file} must be a mapping with names, train and val, not {shown(content)}")
    return content


def class_names(description: dict[str, Any], file: Path) -> list[str]:
    """The names by class index; class_0, class_1, ... where only their number `nc` is given.

    Raises:
        DatasetError: there is neither, they disagree, or the mapping's keys are not 0..C-1.
    """
    names, count = description.get("names"), description.get("nc")
    if count is not None and (not isinstance(count, int) or isinstance(count, bool) or count < 1):
        raise DatasetError(f"{file}: nc is {shown(count)}, not the number of classes")
    if names is None and count is not None:
        return [f"class_{index}" for index in range(count)]
    if isinstance(names, dict):
        if set(names) != set(range(len(names))):
            raise DatasetError(f"{file}: the keys of names must be 0 to {len(names) - 1}, not {shown(list(names))}")
        names = [names[index] for index in range(len(names))]
    if not isinstance(names, list) or not names or not all(isinstance(name, str | int | float) for name in names):
        raise DatasetError(f"{file}: names is {shown(names)}, not a list of class names or a mapping from 0 on")
    if count is not None and count != len(names):
        raise DatasetError(f"{file}: nc is {count}, but there are {len(names)} names")
    return [str(name) for name in names]


# ---------------------------------------------------------------------------------------------------------- images


def find_images(file: Path, split: str) -> list[str]:
    """The paths of a split's images, sorted, each once.

    Raises:
        DatasetError: a folder or list that the data.yaml names is not there.
    """
    description = read_description(file)
    values = description.get(split)
    values = values if isinstance(values, list) else [values]
    roots = list(_roots(description, file))
    return sorted({image for value in values for image in _images_at(_located(value, roots, split, file))})


def _roots(description: dict[str, Any], file: Path) -> Iterator[Path]:
    """The folders that the paths in a data.yaml may be relative to."""
    stated = description.get("path")
    if isinstance(stated, str) and stated:
        yield file.parent / Path(stated).expanduser()  # an absolute one stands for itself
    yield file.parent


def _located(value: Any, roots: list[Path], split: str, file: Path) -> Path:
    """The folder or list of images that one entry of the data.yaml means."""
    if not isinstance(value, str):
        raise DatasetError(f"{file}: {split} is {shown(value)}, not a folder or file of images")
    moved = value.removeprefix("../")
    for root in roots:
        for relative in dict.fromkeys((value, moved)):
            if (root / relative).exists():
                return root / relative
    tried = ", ".join(dict.fromkeys(str(root / value) for root in roots))
    raise DatasetError(f"{file}: {split} is {value!r}, which is not there (looked for {tried})")


def _images_at(location: Path) -> Iterable[str]:
    """The images below a folder, or in a list whose relative paths begin at its own folder."""
    if location.is_dir():
        return _images_below(location)
    lines = read_text(location).splitlines()
    return [os.path.normpath(location.parent / line.strip()) for line in lines if line.strip()]


def _images_below(folder: Path) -> Iterator[str]:
    for parent, _, names in os.walk(folder, followlinks=True):
        for name in names:
            if os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES:
                yield os.path.normpath(os.path.join(parent, name))


# ---------------------------------------------------------------------------------------------------------- labels


def _require_labels(images: list[str], file: Path, split: str) -> None:
    """Refuse images none of which has a label file: they were forgotten, or lie where nothing looks for them."""
    if images and not any(os.path.isfile(label_file(image)) for image in images):
        raise DatasetError(
            f"{file}: none of the {len(images)} images of {split} has a label file (looked for {label_file(images[0])} "
            "and so on); where there are no objects, an empty file says so"
        )


def label_file(image: str) -> str:
    """Where the labels of an image lie or would lie: in labels/ for the last images/ of its path, else beside it."""
    beside = f"{os.path.splitext(image)[0]}.txt"
    head, images, tail = f"{os.sep}{beside}".rpartition(f"{os.sep}images{os.sep}")
    if not images:
        return beside
    parallel = f"{head}{os.sep}labels{os.sep}{tail}"[len(os.sep) :]
    return parallel if os.path.isfile(parallel) or not os.path.isfile(beside) else beside


def read_labels(file: str, num_classes: int, with_keypoints: bool = False) -> list[LabelledBox]:
    """The boxes in a label file; [] where there is none.

    Raises:
        DatasetError: naming file, line and value: no numbers, a class beyond 0..C-1, coordinates that are not relative.
    """
    try:
        text = read_text(Path(file))
    except FileNotFoundError:
        return []
    lines = enumerate(text.splitlines(), start=1)
    return [_labelled_box(line, f"{file}, line {i}", num_classes, with_keypoints) for i, line in lines if line.strip()]


def _labelled_box(line: str, where: str, num_classes: int, with_keypoints: bool) -> LabelledBox:
    fields = line.split()
    numbers = [_number(field, where) for field in fields]
    label, coordinates = numbers[0], numbers[1:5] if with_keypoints else numbers[1:]
    if label not in range(num_classes):
        raise DatasetError(
            f"{where}: class {fields[0]} is not one of the {num_classes} classes, 0 to {num_classes - 1}"
        )
    if len(coordinates) != 4 and (len(coordinates) < 6 or len(coordinates) % 2):
        raise DatasetError(f"{where}: {len(fields)} values; expected are class cx cy w h, or class and a polygon")
    for field, value in zip(fields[1:], coordinates):
        if not -_ROUNDING <= value <= 1 + _ROUNDING:
            raise DatasetError(f"{where}: {field} is not between 0 and 1, relative to the image's size")
    box = coordinates if len(coordinates) == 4 else _box_of_polygon(coordinates)
    return LabelledBox(int(label), (box[0], box[1], box[2], box[3]))


def _number(field: str, where: str) -> float:
    value = finite_number(field)
    if value is None:
        raise DatasetError(f"{where}: {field!r} is not a number")
    return value


def _box_of_polygon(points: list[float]) -> list[float]:
    """[x1, y1, x2, y2, ...] -> the bounding box as centre and size."""
    xs, ys = points[0::2], points[1::2]
    left, right, top, bottom = min(xs), max(xs), min(ys), max(ys)
    return [(left + right) / 2, (top + bottom) / 2, right - left, bottom - top]


def xywh_from_yolo(box_cxcywh_norm: tuple[float, float, float, float], width: int, height: int) -> list[float]:
    """XYWH in pixels from centre and size relative to the image's."""
    cx, cy, w, h = box_cxcywh_norm
    return [(cx - w / 2) * width, (cy - h / 2) * height, w * width, h * height]


# --------------------------------------------------------------------------------------------------------- writing


def write(folder: Path, documents: dict[str, Document]) -> Counter:
    """images/train, labels/train, ... and a data.yaml; a single set is train. Crowds are left out and counted.

    Raises:
        DatasetError: an image's ending is none that YOLO's readers look for.
    """
    crowds = 0
    for part, document in documents.items():
        by_image: dict[Any, list[dict]] = {image["id"]: [] for image in document["images"]}
        index_of = {key: i for i, key in enumerate(sorted(entry["id"] for entry in document["categories"]))}
        for annotation in document["annotations"]:
            crowds += bool(annotation.get("iscrowd"))
            if not annotation.get("iscrowd"):
                by_image[annotation["image_id"]].append(annotation)
        for image in document["images"]:
            lines = [label_line(index_of[a["category_id"]], a["bbox"], image) for a in by_image[image["id"]]]
            write_text(_label_file_of(image, part, folder), "".join(f"{line}\n" for line in lines))
    _write_description(folder, documents)
    return Counter({"crowds left out": crowds} if crowds else {})


def _label_file_of(image: dict, part: str, folder: Path) -> Path:
    """Where the labels of a new data set's image go."""
    stem, ending = os.path.splitext(image["file_name"])
    if ending.lower() not in IMAGE_SUFFIXES:
        raise DatasetError(f"YOLO's readers take {image['file_name']} for no image: convert it to PNG or JPEG first")
    return folder / "labels" / (part or PARTS[0]) / f"{stem}.txt"


def label_line(label: int, bbox_xywh: list[float], image: dict) -> str:
    """A line of a label file, for a box in pixels of an image with "width" and "height"."""
    x, y, w, h = bbox_xywh
    width, height = image["width"], image["height"]
    values = (x + w / 2) / width, (y + h / 2) / height, w / width, h / height
    return " ".join([str(label), *(f"{value:.10f}" for value in values)])


def _write_description(folder: Path, documents: dict[str, Document]) -> None:
    categories = sorted(next(iter(documents.values()))["categories"], key=lambda entry: entry["id"])
    names = {index: str(entry["name"]) for index, entry in enumerate(categories)}
    description = {part or PARTS[0]: f"images/{part or PARTS[0]}" for part in documents}
    text = yaml.safe_dump(description | {"names": names}, allow_unicode=True, sort_keys=False)
    write_text(folder / DESCRIPTIONS[0], text)


FORMAT = DataFormat(
    "YOLO", detect, read, splits, Writer(lambda part: f"images/{part or PARTS[0]}", flat=False, write=write)
)
