"""What is a user told whose config holds something that its sections do not take? One line, with the nearest key."""

import contextlib
import difflib
from collections.abc import Iterator, Sequence

from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    ConfigTypeError,
    InterpolationResolutionError,
    OmegaConfBaseException,
)

from dinov2_detrex.config.schedule_options import ScheduleOptions
from dinov2_detrex.config.schema import (
    OptionError,
    Section,
    dotted_keys,
    expected,
    option_names,
    refused_value,
    section_at,
)
from dinov2_detrex.config.train_options import TrainOptions

SECTIONS: dict[str, type[Section]] = {"schedule": ScheduleOptions, "train": TrainOptions}  # which follows from it


@contextlib.contextmanager
def refused(source: str = "") -> Iterator[None]:
    """Turns omegaconf's errors, and those of options, into one line that starts with `source`.

    Raises:
        OptionError: naming the key, and its nearest one or what its value must be.
    """
    try:
        yield
    except OmegaConfBaseException as error:
        raise OptionError(source + refusal(error)) from error
    except OptionError as error:
        raise OptionError(f"{source}{error}") from error


def refusal(error: OmegaConfBaseException) -> str:
    """One line for an error of omegaconf's: about a typed section in this project's words, else in its own."""
    first_line = str(error).splitlines()[0] if str(error) else type(error).__name__
    key = _full_key(error)
    path = key.split(".")
    root = SECTIONS.get(path[0])
    if root is None:
        return f"{error.full_key}: {first_line}" if error.full_key else first_line
    if isinstance(error, ConfigAttributeError | ConfigKeyError):
        return unknown_key(key, root)
    section = section_at(root, path[1:-1])
    if section is None or path[-1] not in option_names(section):
        return f"{key}: {first_line}"
    wanted = expected(section, path[-1])
    if isinstance(error, InterpolationResolutionError | ConfigTypeError):  # which do not tell the value
        return f"{key} must be {wanted}: {first_line}"
    return refused_value(key, error.value, wanted)


def _full_key(error: OmegaConfBaseException) -> str:
    """The key from the config's root on, also where a recipe holds a section that has no root yet."""
    key = str(error.full_key or "")
    if key.partition(".")[0] in SECTIONS:
        return key
    inside = [name for name, root in SECTIONS.items() if section_at(root, key.split(".")[:-1]) is error.object_type]
    return f"{inside[0]}.{key}" if inside else key


def unknown_key(key: str, root: type[Section]) -> str:
    """The line for a key that a typed section does not have; `root` is the section that `key` begins with."""
    name, *path = key.split(".")
    near = nearest_keys(key, list(dotted_keys(root, name)))
    section = section_at(root, path[:-1])
    there = f"; the keys there are {', '.join(option_names(section))}" if section else ""
    return f"unknown key {key!r}{did_you_mean(near) or there}"


def did_you_mean(near: Sequence[str]) -> str:
    """ "; did you mean a or b?", or nothing."""
    return f"; did you mean {' or '.join(near)}?" if near else ""


def nearest_keys(key: str, known: list[str], count: int = 3) -> list[str]:
    """The known keys that look most like `key`, by the last part of the name first, then by the whole; best first."""

    def likeness(candidate: str) -> float:
        last = difflib.SequenceMatcher(None, key.rpartition(".")[2], candidate.rpartition(".")[2]).ratio()
        return last + 0.5 * difflib.SequenceMatcher(None, key, candidate).ratio()

    ranked = sorted(((likeness(name), name) for name in known), key=lambda pair: (-pair[0], pair[1]))[:count]
    return [name for score, name in ranked if score > max(0.9, ranked[0][0] - 0.2)]
