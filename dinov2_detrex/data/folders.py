"""What the formats that are folders have in common: the names of parts, which files are images, text and numbers."""

import math
import os
from collections.abc import Iterator
from pathlib import Path

from dinov2_detrex.data.errors import DatasetError

VALIDATION = ("val", "valid", "validation")  # how the part that is evaluated on is called; the first that is there
PARTS = ("train", *VALIDATION, "test")  # in the order in which they are named
IMAGE_SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}


def in_order(names: list[str]) -> list[str]:
    """Names of parts: the usual ones first, the others by alphabet."""
    return sorted(names, key=lambda name: (PARTS.index(name) if name in PARTS else len(PARTS), name))


def usual_name(part: str) -> str:
    """ "val" for each of the names of a validation part; others as they are."""
    return VALIDATION[0] if part in VALIDATION else part


def files_in(folder: str | os.PathLike[str], suffix: str) -> Iterator[Path]:
    """The files right in a folder with an ending, in small or capital letters; none where the folder is absent."""
    if os.path.isdir(folder):
        with os.scandir(folder) as entries:
            yield from (Path(entry.path) for entry in entries if entry.name.lower().endswith(suffix))


def part_folders(folder: str | os.PathLike[str]) -> list[Path]:
    """The folders right in a folder that are named as parts are."""
    return [path for path in (Path(folder, name) for name in PARTS) if path.is_dir()]


def read_text(file: Path) -> str:
    """The text of a file; a DatasetError where it is none."""
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DatasetError(f"{file} is not UTF-8 text: {error}") from error


def finite_number(text: str) -> float | None:
    """The number that a text states; None for anything else, infinite ones among it."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
