"""What the keys of a document in COCO's form hold, and what is made of a value that is not so.

Looked at is every key that decides what is trained, counted or evaluated: a whole column at a time, since a large set
has a million annotations. Text that is a number is read as that number; of anything else the first is told, with the
number of the others. Ids of annotations are left out: what will not do for one is numbered anew.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import chain
from numbers import Integral, Real
from typing import Any, NamedTuple

from dinov2_detrex.data.errors import DatasetError, shown
from dinov2_detrex.data.masks import is_polygon, is_rle

LARGEST_WHOLE = 2**53  # up to here every whole number is a float, which pycocotools and numpy make of some
LARGEST_AREA = 1e5**2  # pycocotools ignores what is larger
_NUMBER = re.compile(r"\s*[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?\s*")
_NUMBERS_READ = "values read as the numbers that their text says"


class Key(NamedTuple):
    """One key of an entry. An optional one may be absent or null.

    Attributes:
        name: of the key.
        wanted: what it holds, to end the sentence "... is not".
        sound: whether all values of a column are as they should be.
        read: a value that is not sound -> the one that is meant; ValueError or OverflowError where there is none.
        required: whether it must be there.
        mended: what is counted of the values that were read as others.
    """

    name: str
    wanted: str
    sound: Callable[[Sequence[Any]], bool]
    read: Callable[[Any], Any]
    required: bool = True
    mended: str = _NUMBERS_READ


class Reading(NamedTuple):
    """What was made of a list of entries.

    Attributes:
        entries: those that are sound or were mended, in order; sound ones are the same objects.
        faults: a sentence for each kind of fault of the others.
        mended: what was mended -> how often.
    """

    entries: list[dict[str, Any]]
    faults: list[str]
    mended: Counter[str]


# --------------------------------------------------------------------------------------------------------- columns


def _are_numbers(values: Sequence[Any]) -> bool:
    """Whether all are finite numbers, and no truth values."""
    if not set(map(type, values)) <= {int, float}:
        return False
    try:  # the sum is much faster, and finite only if all are; it may be infinite although all are finite
        return math.isfinite(sum(values, 0.0)) or all(map(math.isfinite, values))
    except OverflowError:  # an integer beyond the range of floats
        return False


def _are_whole(values: Sequence[Any]) -> bool:
    return set(map(type, values)) <= {int} and max(map(abs, values), default=0) <= LARGEST_WHOLE


def _are_lengths(values: Sequence[Any]) -> bool:
    return _are_whole(values) and min(values, default=1) > 0


def _are_areas(values: Sequence[Any]) -> bool:
    return _are_numbers(values) and min(values, default=0) >= 0 and max(values, default=0) <= LARGEST_AREA


def _are_flags(values: Sequence[Any]) -> bool:
    return set(map(type, values)) <= {int, float, bool} and set(values) <= {0, 1}


def _are_texts(values: Sequence[Any]) -> bool:
    return set(map(type, values)) <= {str} and all(values)


def _are_boxes(values: Sequence[Any]) -> bool:
    return (
        set(map(type, values)) <= {list}
        and set(map(len, values)) <= {0, 4}
        and _are_numbers([*chain.from_iterable(values)])
    )


def _are_number_lists(values: Sequence[Any]) -> bool:
    return set(map(type, values)) <= {list} and _are_numbers([*chain.from_iterable(values)])


def _are_segmentations(values: Sequence[Any]) -> bool:
    kinds = set(map(type, values))
    if not kinds <= {list, dict}:
        return False
    polygons = [*chain.from_iterable(values if kinds == {list} else (v for v in values if type(v) is list))]
    if set(map(type, polygons)) <= {list} and not any(size < 6 or size % 2 for size in set(map(len, polygons))):
        numbers = _are_numbers([*chain.from_iterable(polygons)])
        return numbers and (kinds == {list} or all(is_rle(v) for v in values if type(v) is not list))
    return False


# ---------------------------------------------------------------------------------------------------------- values


def read_number(value: Any) -> int | float:
    """A finite number, or text that is one; ValueError or OverflowError for anything else."""
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        value = float(value) if set(value) & set(".eE") else int(value)
    if not isinstance(value, Real) or isinstance(value, bool) or not math.isfinite(value):
        raise ValueError(value)
    return int(value) if isinstance(value, Integral) else float(value)


def read_whole(value: Any) -> int:
    """A whole number, also as text or with a decimal point."""
    number = read_number(value)
    if number != int(number) or abs(number) > LARGEST_WHOLE:
        raise ValueError(value)
    return int(number)


def _read_length(value: Any) -> int:
    number = read_whole(value)
    if number < 1:
        raise ValueError(value)
    return number


def _read_area(value: Any) -> int | float:
    number = read_number(value)
    if not 0 <= number <= LARGEST_AREA:
        raise ValueError(value)
    return number


def _read_flag(value: Any) -> int:
    number = int(value) if isinstance(value, bool) else read_whole(value)
    if number not in (0, 1):
        raise ValueError(value)
    return number


def _read_text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError(value)
    return value


def _read_name(value: Any) -> str:
    return value if isinstance(value, str) and value else str(read_number(value))


def _read_numbers(value: Any) -> list[int | float]:
    if not isinstance(value, list | tuple):
        raise ValueError(value)
    return [read_number(item) for item in value]


def _read_box(value: Any) -> list[int | float]:
    numbers = _read_numbers(value)
    if len(numbers) not in (0, 4):  # an empty one is a missing one
        raise ValueError(value)
    return numbers


def _read_segmentation(value: Any) -> list[Any] | dict[str, Any]:
    """The valid ones among the polygons, or an RLE."""
    if isinstance(value, list):
        return [polygon for polygon in map(_read_polygon, value) if is_polygon(polygon)]
    if isinstance(value, dict):
        counts = value.get("counts")
        counts = counts if isinstance(counts, str) else [read_whole(count) for count in _read_numbers(counts)]
        value = value | {"size": [read_whole(side) for side in _read_numbers(value.get("size"))], "counts": counts}
    if not is_rle(value):
        raise ValueError(value)
    return value


def _read_polygon(value: Any) -> list[int | float]:
    """The numbers of a polygon; [] for what is none."""
    try:
        return _read_numbers(value)
    except (ValueError, OverflowError):
        return []


# ----------------------------------------------------------------------------------------------------- the entries

_WHOLE = "a whole number"
_ID = Key("id", _WHOLE, _are_whole, read_whole)
CATEGORY = (_ID, Key("name", "a text", _are_texts, _read_name, mended="class names that are numbers read as text"))
_IMAGE = (
    Key("file_name", "a text", _are_texts, _read_text),
    Key("height", "a positive whole number", _are_lengths, _read_length, required=False),
    Key("width", "a positive whole number", _are_lengths, _read_length, required=False),
)
_ANNOTATION = (
    Key("category_id", _WHOLE, _are_whole, read_whole),
    Key("bbox", "four finite numbers", _are_boxes, _read_box, required=False),
    Key("area", "a number from 0 to 1e10", _are_areas, _read_area, required=False),
    Key("iscrowd", "0 or 1", _are_flags, _read_flag, required=False),
    Key("ignore", "0 or 1", _are_flags, _read_flag, required=False),
    Key("keypoints", "a list of finite numbers", _are_number_lists, _read_numbers, required=False),
    Key(
        "segmentation",
        "a list of polygons or an RLE with size and counts",
        _are_segmentations,
        _read_segmentation,
        required=False,
        mended="segmentations with text for numbers or with invalid polygons mended",
    ),
)
_NO_POLYGON = "segmentations without a valid polygon removed"


def read_categories(categories: list[Any]) -> Reading:
    """The categories with whole ids and names."""
    return _read_entries("categories", categories, CATEGORY, lambda entry: f"category {shown(entry['id'])}")


def read_images(images: list[Any]) -> Reading:
    """The images with ids, file names and, where they are stated, sizes."""
    key = Key("id", "a text, as the other images' ids are", _are_texts, _read_text) if _are_named(images) else _ID
    return _read_entries("images", images, (key, *_IMAGE), lambda entry: f"image {shown(entry['id'])}")


def read_annotations(annotations: list[Any], images: list[dict[str, Any]]) -> Reading:
    """The annotations of images that were read; `bbox` may be absent or empty, as may be all but the ids."""
    files = {entry["id"]: entry["file_name"] for entry in images}
    if _are_named(images):
        key = Key("image_id", "a text, as the images' ids are", _are_texts, _read_text)
    else:
        key = Key("image_id", _WHOLE, _are_whole, read_whole)

    def describe(entry: dict[str, Any]) -> str:
        image_id = entry.get("image_id")
        file_name = files.get(image_id) if isinstance(image_id, int | str) else None
        of_image = f" of image {shown(image_id)}" + (f" ({file_name})" if file_name else "")
        return f"annotation {shown(entry['id'])}{of_image}"

    return _read_entries("annotations", annotations, (key, *_ANNOTATION), describe)


def _are_named(images: list[Any]) -> bool:
    """Whether the images' ids are names: all of them text, and not all of them numbers."""
    ids: list[Any] = [entry.get("id") for entry in images if isinstance(entry, dict)]
    return bool(ids) and set(map(type, ids)) == {str} and not all(_NUMBER.fullmatch(number) for number in ids)


def _read_entries(
    what: str, entries: list[Any], keys: Sequence[Key], describe: Callable[[dict[str, Any]], str]
) -> Reading:
    """Read the entries of a list by their keys; `describe` names an entry that has an id."""
    reading = Reading([], [], Counter())
    places = [index for index, entry in enumerate(entries) if not isinstance(entry, dict)]
    if places:
        first = f"{what}[{places[0]}] is {shown(entries[places[0]])}, not an object with keys"
        reading.faults.append(first + _others(len(places), "entries"))

    changes: dict[int, dict[str, Any]] = {}
    unsound = set(places)
    for key in keys:
        if unsound:
            values = [None if index in unsound else entry.get(key.name) for index, entry in enumerate(entries)]
        else:
            values = [entry.get(key.name) for entry in entries]
        mended, refused = _read_column(key, values, unsound)
        for index, value in mended.items():
            changes.setdefault(index, {})[key.name] = value
            if value != values[index]:
                reading.mended[_NO_POLYGON if key.name == "segmentation" and not value else key.mended] += 1
        if refused:
            entry = entries[refused[0]]
            where = describe(entry) if entry.get("id") is not None else f"{what}[{refused[0]}]"
            if values[refused[0]] is None:
                needed = " or no ".join(key.name for key in keys if key.required)
                fault = f"{where} ({shown(entry)}) has no {needed}"
            else:
                fault = f"{where}: {key.name} {shown(values[refused[0]])} is not {key.wanted}"
            reading.faults.append(fault + _others(len(refused), what))
            unsound.update(refused)

    kept = entries if not unsound else [entry for index, entry in enumerate(entries) if index not in unsound]
    if changes:
        kept = [entry | changes.get(index, {}) for index, entry in enumerate(entries) if index not in unsound]
    reading.entries.extend(kept)
    return reading


def _read_column(key: Key, values: list[Any], left_out: set[int]) -> tuple[dict[int, Any], list[int]]:
    """({index: value that is meant} of the values that are not sound, indices of those that mean nothing)."""
    if not left_out and key.sound(values):
        return {}, []
    present = [value for value in values if value is not None]
    if key.sound(present) and (not key.required or len(present) + len(left_out) == len(values)):
        return {}, []
    mended, refused = {}, []
    for index, value in enumerate(values):
        if index in left_out or (value is None and not key.required):
            continue
        try:
            meant = key.read(value)
        except (ValueError, OverflowError):
            refused.append(index)
        else:
            if meant is not value:
                mended[index] = meant
    return mended, refused


def _others(count: int, what: str) -> str:
    return f" (and {count - 1} more {what})" if count > 1 else ""


# ---------------------------------------------------------------------------------------------- lists and classes


def with_lists(document: Any, path: str) -> dict[str, Any]:
    """The document, whose images, categories and, if it has them, annotations are lists.

    Raises:
        DatasetError: they are not.
    """
    if not isinstance(document, dict):
        raise DatasetError(f"{path} is not in COCO's format: it is {shown(document)}, not an object with keys")
    for key in ("images", "categories"):
        if key not in document:
            raise DatasetError(f"{path} is not in COCO's format: it has no list {key!r}")
    for key in ("images", "categories", "annotations"):
        if key in document and not isinstance(document[key], list):
            raise DatasetError(f"{path} is not in COCO's format: {key!r} is {shown(document[key])}, not a list")
    return document


def root_category(categories: list[dict[str, Any]], annotations: list[Any]) -> str | None:
    """The name of the category that Roboflow puts above the classes, which is none itself; None without one.

    It has the id 0, is the supercategory of all the others, and no annotation uses it.
    """
    root = next((entry["name"] for entry in categories if entry["id"] == 0), None)
    others = [entry.get("supercategory") for entry in categories if entry["id"] != 0]
    if root is None or not others or any(above != root for above in others):
        return None
    used = any(isinstance(entry, dict) and entry.get("category_id") in (0, "0") for entry in annotations)
    return None if used else root


def name_with_id(name: str, category_id: int) -> str:
    """How a class is called whose name others have, too."""
    return f"{name} (id {category_id})"


def told_apart(categories: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The categories, where names that occur more than once have their ids added: names are keys of the metrics."""
    counts = Counter(entry["name"] for entry in categories)
    return [
        entry | {"name": name_with_id(entry["name"], entry["id"])} if counts[entry["name"]] > 1 else entry
        for entry in categories
    ]
