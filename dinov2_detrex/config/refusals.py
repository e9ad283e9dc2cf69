"""What is a user told whose config holds something that its sections do not take? One line, with the nearest key."""

import contextlib
from collections.abc import Iterator

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
from dinov2_detrex.runtime.errors import UserError, did_you_mean

SECTIONS: dict[str, type[Section]] = {"schedule": ScheduleOptions, "train": TrainOptions}  # which follows from it


@contextlib.contextmanager
def refused(source: str = "") -> Iterator[None]:
    """Turns omegaconf's errors, and those of options, into one line that starts with `source`.

    Raises:
        OptionError: naming the key, and its nearest one or what its value must be.
        UserError: what a resolver of the recipe says of the data, as it says it.
    """
    try:
        yield
    except OmegaConfBaseException as error:
        own = _raised_by_a_resolver(error)
        if own is not None:
            raise own from None
        raise OptionError(source + refusal(error)) from error
    except OptionError as error:
        raise OptionError(f"{source}{error}") from error


def _raised_by_a_resolver(error: BaseException) -> UserError | None:
    """The error of this project's that omegaconf's is about; None where it is about the config itself."""
    cause = error.__cause__ or error.__context__
    while cause is not None and not isinstance(cause, UserError):
        cause = cause.__cause__ or cause.__context__
    return cause


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
    section = section_at(root, path[:-1])
    there = f"; the keys there are {', '.join(option_names(section))}" if section else ""
    return f"unknown key {key!r}{did_you_mean(key, dotted_keys(root, name)) or there}"
