"""How a config section declares what it holds: a dataclass derived from `Section`, one `option` for each key.

omegaconf refuses unknown keys and values of another type where they are set, in a recipe's line too. Ranges are checked
where the section's values are taken out of the config (`taken`), since until then they may be interpolations.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import Field, dataclass, field, fields
from enum import Enum, EnumMeta
from types import NoneType
from typing import Any, TypeVar, cast, get_args, get_origin, get_type_hints

import yaml
from omegaconf import DictConfig, OmegaConf

from dinov2_detrex.runtime.errors import UsageError


class OptionError(UsageError):
    """A value that its option does not take: the message holds the key, the value and what is allowed."""


class _ByValue(EnumMeta):
    """Members are looked up by what a config writes, which need not be a name of Python's."""

    def __getitem__(cls, name):
        return cls(name)


class Choice(str, Enum, metaclass=_ByValue):
    """One of several texts. A member equals the text; other spellings of it are a matter of `_missing_`."""

    def __str__(self) -> str:
        return self.value

    @classmethod
    def in_words(cls) -> str:
        """The texts, as a message lists them."""
        values = [repr(member.value) for member in cls]
        return f"{', '.join(values[:-1])} or {values[-1]}"


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, those two included unless `open` (infinity always is); never NaN.

    Whole numbers have 64 bits, as in whatever they are handed to.
    """

    low: float = -math.inf
    high: float = math.inf
    open: bool = False

    def __contains__(self, value: float) -> bool:
        if isinstance(value, int) and not -(2**63) <= value < 2**63:
            return False
        inside = self.low <= value <= self.high
        return inside and not (self.open and value in (self.low, self.high) and math.isfinite(value))

    def __str__(self) -> str:
        if self.high == math.inf:
            return f"above {self.low:g}" if self.open else f"of at least {self.low:g}"
        return f"between {self.low:g} and {self.high:g}" if self.open else f"from {self.low} to {self.high}"


@dataclass(frozen=True)
class NotEmpty:
    """Texts with something in them."""

    def __contains__(self, value: str) -> bool:
        return bool(value.strip())

    def __str__(self) -> str:
        return "that is not empty"


@dataclass(frozen=True)
class Each:
    """Lists of whole numbers within a range."""

    allowed: Range

    def __contains__(self, value: list) -> bool:
        return all(isinstance(each, int) and not isinstance(each, bool) and each in self.allowed for each in value)

    def __str__(self) -> str:
        return str(self.allowed)


def option(default: Any, allowed: Range | NotEmpty) -> Any:
    """A dataclass field with a default and the values that it may have beside None."""
    return field(default=default, metadata={"allowed": allowed})


class Section:
    """Base of a config section's dataclass; a section of its own default is `field(default_factory=...)`."""

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            OptionError: naming the first option that is out of its range.
        """
        for declared in declared_options(type(self)):
            value, allowed = getattr(self, declared.name), declared.metadata.get("allowed")
            if allowed is None or value is None or isinstance(value, str) and "${" in value:
                continue
            if value not in allowed:
                raise OptionError(refused_value(declared.name, value, expected(type(self), declared.name)))


AnySection = TypeVar("AnySection", bound=Section)


def declared_options(section: type[Section]) -> tuple[Field, ...]:
    """The fields of a section, in the order in which a config writes them."""
    return fields(cast(Any, section))  # every section is a dataclass


def completed(section: type[AnySection], given: Any, key: str) -> DictConfig:
    """What is `given` for a section as a typed config, with the defaults of the options that it lacks.

    Args:
        section: the dataclass.
        given: nested dictionaries, or a config; its interpolations stay as they are.
        key: under which the section stands in a config, for messages.

    Raises:
        OptionError: something else in place of a section.
        omegaconf.errors.OmegaConfBaseException: an unknown key, or a value of the wrong type.
    """
    if not isinstance(given, Mapping):
        raise OptionError(refused_value(key, given, section_in_words(section)))
    _check_nesting(section, OmegaConf.to_container(given) if isinstance(given, DictConfig) else given, key)
    merged = OmegaConf.merge({key: OmegaConf.structured(section)}, {key: given})
    return cast(DictConfig, merged)[key]


def _check_nesting(section: type[Section], given: Any, key: str) -> None:
    """Refuse what stands in place of a section or a list, for which omegaconf's messages lack the key."""
    for name in given.keys() & set(option_names(section)):
        kind, value = option_kinds(section, name)[0][0], given[name]
        if isinstance(value, str) and "${" in value:
            continue
        if not isinstance(value, _container(kind)):
            raise OptionError(refused_value(f"{key}.{name}", value, expected(section, name)))
        if is_section(kind):
            _check_nesting(kind, value, f"{key}.{name}")


def _container(kind: Any) -> type:
    if get_origin(kind) is list:
        return list
    return Mapping if is_section(kind) or get_origin(kind) is dict else object


def taken(node: DictConfig, key: str) -> Any:
    """The values of a typed config as its dataclass, interpolations resolved and ranges checked.

    Args:
        node: as `completed` makes it.
        key: of the section, for messages.

    Raises:
        OptionError: naming the key, the value and what is allowed.
    """
    for name in map(str, node):
        if is_section(OmegaConf.get_type(node, name)):
            taken(node[name], f"{key}.{name}")  # the innermost sections first, whose keys are known here
    try:
        return OmegaConf.to_object(node)
    except OptionError as error:
        raise OptionError(f"{key}.{error}") from None


def option_names(section: type[Section]) -> list[str]:
    """The keys of a section, in the order in which a config writes them."""
    return [declared.name for declared in declared_options(section)]


def is_section(kind: Any) -> bool:
    """True for the dataclass of a section."""
    return isinstance(kind, type) and issubclass(kind, Section)


def option_kinds(section: type[Section], name: str) -> tuple[list[Any], bool]:
    """The types that an option may have, e.g. [int, float], and whether it may be None."""
    hint = get_type_hints(section)[name]
    kinds = [hint] if get_origin(hint) in (list, dict) else list(get_args(hint)) or [hint]
    return [kind for kind in kinds if kind is not NoneType], NoneType in kinds


def expected(section: type[Section], name: str) -> str:
    """What an option takes, in words: "a whole number of at least 1, or null"."""
    kinds, optional = option_kinds(section, name)
    allowed = next(declared.metadata.get("allowed") for declared in declared_options(section) if declared.name == name)
    text = _kind_in_words(kinds) + (f" {allowed}" if allowed else "")
    return f"{text}, or null" if optional else text


def section_in_words(section: type[Section]) -> str:
    """ "a section with the keys enabled, dtype"."""
    return f"a section with the keys {', '.join(option_names(section))}"


def _kind_in_words(kinds: list[Any]) -> str:
    kind = kinds[0]
    if is_section(kind):
        return section_in_words(kind)
    if isinstance(kind, type) and issubclass(kind, Choice):
        return kind.in_words()
    if get_origin(kind) is list:
        return "a list of whole numbers" if get_args(kind) == (int,) else "a list of texts"
    words = {bool: "true or false", str: "text", float: "a number", int: "a whole number", dict: "a section"}
    return "a number" if float in kinds else words[get_origin(kind) or kind]


def refused_value(key: str, value: Any, wanted: str) -> str:
    """The line for a value that an option does not take."""
    shown = "null" if value is None else str(value).lower() if isinstance(value, bool) else repr(value)
    return f"{key}={' '.join(shown.split())} must be {wanted}"


def dotted_keys(section: type[Section], prefix: str) -> Iterator[str]:
    """Every key of a section and of those inside it, e.g. "train.amp.enabled" for the prefix "train"."""
    for declared in declared_options(section):
        yield f"{prefix}.{declared.name}"
        kind = option_kinds(section, declared.name)[0][0]
        if is_section(kind):
            yield from dotted_keys(kind, f"{prefix}.{declared.name}")


def section_at(root: type[Section], path: list[str]) -> type[Section] | None:
    """The section inside `root` along the keys of `path`; None where there is none."""
    for name in path:
        if name not in get_type_hints(root) or not is_section(option_kinds(root, name)[0][0]):
            return None
        root = option_kinds(root, name)[0][0]
    return root


def register_plain_yaml() -> None:
    """Make PyYAML write sections and choices as plain mappings and texts, also where `LazyConfig.save` is called."""
    yaml.Dumper.add_multi_representer(Section, lambda dumper, section: dumper.represent_dict(vars(section)))
    yaml.Dumper.add_multi_representer(Choice, lambda dumper, choice: dumper.represent_str(choice.value))
