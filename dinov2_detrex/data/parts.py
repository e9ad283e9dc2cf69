"""What are the parts of a data set, and which path names one? For recipes and commands given a whole folder."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path

from dinov2_detrex.data.check import DatasetReport, check_source
from dinov2_detrex.data.errors import DatasetError
from dinov2_detrex.data.folders import VALIDATION, usual_name
from dinov2_detrex.data.formats.coco import image_folder
from dinov2_detrex.data.source import (
    SPLIT_MARK,
    DataSource,
    PathLike,
    Paths,
    as_paths,
    format_of,
    fraction_of,
    read_source,
    remembered,
    split_path,
)


def parts_of(path: Paths, image_root: PathLike | None = None) -> dict[str, DataSource]:
    """All parts of a data set by their usual names ("val" for valid and validation); {"": source} of a single one.

    Args:
        path, image_root: see `read_source`; of a folder in parts, or of one part, or of several whose parts are joined
            by name. The images of a JSON that is named itself are looked for in the folders around it.

    Raises:
        DatasetError: one of several is a single set, others are in parts; see `read_source` for more.
    """
    found: dict[str, list[str]] = {}
    for one in as_paths(path):
        location, split = split_path(one)
        parts = _splits(location) if split is None else []
        for name in parts:
            found.setdefault(usual_name(name), []).append(f"{location}{SPLIT_MARK}{name}")
        if not parts:
            found.setdefault("", []).append(one)
    if "" in found and len(found) > 1:
        named = ", ".join(name for name in found if name)
        raise DatasetError(f"{found[''][0]} is a single set, others are in parts ({named}): name the parts to join")
    return {name: _with_images(paths, image_root) for name, paths in found.items()}


def _with_images(paths: list[str], image_root: PathLike | None) -> DataSource:
    """The source; the images of a lone JSON are looked for."""
    source = read_source(paths, image_root)
    if source.image_root is None and source.json_file is not None:
        return read_source(paths, image_folder(Path(source.json_file)))
    return source


def part_of(path: Paths, *names: str) -> str | list[str]:
    """`FOLDER#name` for the first of the names that is a part of the folder; of the first where no folder is there yet.

    Returns:
        a list for several folders.

    Raises:
        DatasetError: a folder has no such part, or is of a format or form without parts.
    """
    return _one_or_all(path, lambda location: _part_of(location, names))


@remembered
def _part_of(location: str, names: tuple[str, ...]) -> str:
    if not os.path.exists(location):
        return f"{location}{SPLIT_MARK}{names[0]}"
    there = _splits(location)
    for name in names:
        if name in there:
            return f"{location}{SPLIT_MARK}{name}"
    single = f"it is a single set of the format {format_of(location).name}"
    found = f"its parts are {', '.join(there)}" if there else single
    raise DatasetError(
        f"{location} has no part named {' or '.join(names)}: {found}; name what to use with data.train.json="
        f"{location}{SPLIT_MARK}PART and data.val.json=PATH{SPLIT_MARK}PART, or hold a fifth out for validation, by "
        "seed, with data.split=0.2"
    )


def share_of(path: Paths, fraction: float, seed: int, held_out: bool) -> str | list[str]:
    """The path of a share of a folder's training part, or of a single set: what is held out of it, or the rest.

    Returns:
        a list for several folders, each of which is split.

    Raises:
        DatasetError: a folder has a validation part, or parts but none for training; the fraction is not within 0..1.
    """
    mark = f"@{'held-out' if held_out else 'without'}-{fraction_of(fraction)!r}-seed-{int(seed)}"
    return _one_or_all(path, lambda location: f"{location}{SPLIT_MARK}{_part_to_split(location)}{mark}")


@remembered
def _part_to_split(location: str) -> str:
    """ "train", or "" for a single set."""
    there = _splits(location) if os.path.exists(location) else ["train"]
    own = [name for name in VALIDATION if name in there]
    if own:
        raise DatasetError(f"{location} has a part for validation, {own[0]}: leave data.split out to use it")
    if there and "train" not in there:
        raise DatasetError(f"{location} has no part named train to hold something out of: there are {', '.join(there)}")
    return "train" if there else ""


def _one_or_all(path: Paths, function: Callable[[str], str]) -> str | list[str]:
    """The answer for one path, or the list of those for several."""
    answers = [function(one) for one in as_paths(path)]
    return answers[0] if len(answers) == 1 else answers


def _splits(location: str) -> list[str]:
    data_format = format_of(location)
    return data_format.splits(location) if data_format.splits else []


def check_parts(parts: Mapping[str, DataSource], skip_bad_images: bool = False) -> dict[str, DatasetReport]:
    """`check_source` for each; the classes of the others must be those of the first, which is trained on."""
    first = next(iter(parts.values()))
    training = {name: None if source is first else first for name, source in parts.items()}
    return {name: check_source(source, skip_bad_images, training[name]) for name, source in parts.items()}
