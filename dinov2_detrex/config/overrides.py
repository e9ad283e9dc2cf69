"""How `key=value` on the command line changes a config, and how a misspelt key is told from a new one.

The grammar is Hydra's (hydra.cc, "Override grammar"), applied by detectron2's LazyConfig; a plain value with characters
that it does not know, as in the path `photographs#train`, is taken as it stands. Before that, every key must exist, or
be a parameter that the enclosing `_target_` accepts, or be added on purpose as `+key=value`. The sections whose options
are declared (`train`, `schedule`) take no new keys and lose none.
"""

import inspect
import re
from typing import Any

from detectron2.config import LazyConfig
from detectron2.utils.registry import locate
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import QuotedString
from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from dinov2_detrex.config.refusals import refusal, unknown_key
from dinov2_detrex.config.schema import (
    expected,
    is_section,
    option_kinds,
    option_names,
    refused_value,
    section_in_words,
)
from dinov2_detrex.runtime.errors import UsageError, did_you_mean

# begins like a list, a tuple, a dictionary or a quoted text, ends or begins with a blank, or holds a second override
_NOT_PLAIN = re.compile(r"""^$|^[\[({"'\s]|\s$|\s[\w.]+=""")


def apply_overrides(cfg: DictConfig, overrides: list[str]) -> DictConfig:
    """Change `cfg` in place, in order, and return it; of two overrides of a key the last one counts, as in Hydra.

    A dictionary is merged into the section that is there; where it names another `_target_`, arguments that the new
    callable does not take are dropped.

    Args:
        cfg: a config with all its sections.
        overrides: e.g. ["train.max_iter=100", "+model.note=mine", "data.names=[a,b]", "~optimizer.betas"].

    Raises:
        UsageError: an override does not parse, names an unknown key, asks for a sweep, puts text where a number is, or
            does not fit; or it adds to or takes from a section whose options are declared.
    """
    for text in overrides:
        text, override = _parse(text)
        if override.is_delete():
            _delete(cfg, override.key_or_group, text)
            continue
        _check_options(cfg, override.key_or_group, override.value(), text)
        _change_callables(cfg, override.key_or_group, override.value())
        if not override.is_add() and not override.is_force_add():
            _check_key(cfg, override.key_or_group, override.value(), text)
            text = "+" + text  # checked: a parameter that the config leaves out may be created without a warning
        try:
            LazyConfig.apply_overrides(cfg, [text])
        except OmegaConfBaseException as error:
            raise UsageError(f"override {text.lstrip('+')!r}: {refusal(error)}") from error
        except (KeyError, ValueError, HydraException) as error:
            raise UsageError(f"override {text.lstrip('+')!r}: {_first_line(error)}") from error
    return cfg


def _parse(text: str):
    """(text, what Hydra reads in it); a plain value that its grammar cannot read is put in quotes, in both."""
    if text.startswith("--"):
        raise UsageError(f"unknown flag {text!r}; the flags are shown by --help")
    try:
        override = OverridesParser.create().parse_override(text)
    except HydraException as error:
        quoted = _quoted(text)
        if quoted == text:
            raise UsageError(
                f"override {text!r} does not parse ({_first_line(error)}); write key=value without blanks around '=', "
                "lists as key=[1,2], and quote values with special characters for the shell: 'key=\"a, b\"'"
            ) from error
        return _parse(quoted)
    if override.is_sweep_override():
        raise UsageError(f"override {text!r} is a sweep, which is not supported; a list is written key=[1,2]")
    return text, override


def _quoted(text: str) -> str:
    """`text` with a plain value in quotes."""
    key, _, value = text.partition("=")
    if _NOT_PLAIN.search(value):
        return text
    escaped = re.sub(r'(\\*)("|$)', lambda end: 2 * end[1] + (end[2] and r"\""), value)
    return f'{key}="{escaped}"'


def _delete(cfg, key: str, text: str) -> None:
    parent = OmegaConf.select(cfg, key.rpartition(".")[0]) if "." in key else cfg
    name = key.rpartition(".")[2]
    if not isinstance(parent, DictConfig) or name not in parent.keys():
        raise UsageError(_unknown_key(cfg, key.split("."), text))
    if is_section(OmegaConf.get_type(parent)) or is_section(OmegaConf.get_type(parent, name)):
        raise UsageError(f"override {text!r}: {key} cannot be removed, because a run needs it; set it instead")
    parent.pop(name)


def _check_options(cfg, key: str, value, text: str) -> None:
    """Refuse what a section with declared options does not take, also where `+` asks for a new key."""
    path = key.split(".")
    root: Any = OmegaConf.get_type(cfg, path[0]) if path[0] in cfg else None
    if not is_section(root):
        return
    kinds, wanted = [root], ""
    for done, name in enumerate(path[1:], 2):
        if not is_section(kinds[0]):
            return  # inside keywords or a list, which are open
        if name not in option_names(kinds[0]):
            raise UsageError(f"{unknown_key('.'.join(path[:done]), root)} (override {text!r})")
        kinds, wanted = option_kinds(kinds[0], name)[0], expected(kinds[0], name)
    if is_section(kinds[0]) and isinstance(value, dict):
        for name, inner in value.items():  # a dictionary is merged, so its keys must be known as well
            _check_options(cfg, f"{key}.{name}", inner, text)
    elif is_section(kinds[0]):
        raise UsageError(f"override {text!r}: {refused_value(key, value, section_in_words(kinds[0]))}")
    elif kinds[0] is bool and isinstance(value, int) and value not in (0, 1):
        raise UsageError(f"override {text!r}: {refused_value(key, value, wanted)}")
    elif isinstance(value, (str, QuotedString)) and "${" not in str(value) and {*kinds} <= {int, float}:
        raise UsageError(f"override {text!r}: {refused_value(key, str(value), wanted)}")


def _change_callables(cfg, key: str, value) -> None:
    """Where a dictionary names a callable, set it already, and drop what it does not take; inner ones likewise."""
    if not isinstance(value, dict):
        return
    try:
        node = OmegaConf.select(cfg, key)
    except OmegaConfBaseException:
        return  # it is reported when the key is checked
    if not isinstance(node, DictConfig):
        return
    if "_target_" in value:
        node["_target_"] = value["_target_"]
        for name in map(str, [*node.keys()]):
            if not name.startswith("_") and not _accepts(node, name):
                node.pop(name)
    for name, inner in value.items():
        _change_callables(node, str(name), inner)


def _check_key(cfg, key: str, value, text: str) -> None:
    node, done = cfg, []
    for part in key.split("."):
        if not isinstance(node, (DictConfig, ListConfig)):
            raise UsageError(f"override {text!r}: {'.'.join(done)!r} is a plain value, not a section")
        done.append(part)
        if not _has(node, part):
            if not _accepts(node, part):
                raise UsageError(_unknown_key(cfg, done, text))
            return
        node = _child(node, part)
    if isinstance(value, dict) and isinstance(node, DictConfig):
        for name, inner in value.items():  # a dictionary is merged, so its keys must be known as well
            _check_key(cfg, f"{key}.{name}", inner, text)
    is_number = isinstance(node, (int, float)) and not isinstance(node, bool)
    if is_number and isinstance(value, (str, QuotedString)) and "${" not in str(value):
        raise UsageError(f"override {text!r}: {key} is a number ({node}), {str(value)!r} is text")


def can_set(cfg: DictConfig, key: str) -> bool:
    """True if an override without `+` may set the key: it is there, or the callable around it takes it."""
    try:
        _check_key(cfg, key, None, key)
    except UsageError:
        return False
    return True


def _has(node, part: str) -> bool:
    if isinstance(node, ListConfig):
        return part.lstrip("-").isdigit()  # an index out of range is reported by omegaconf, with the length
    return part in node or part in node.keys()


def _child(node, part: str):
    try:
        return node[int(part)] if isinstance(node, ListConfig) else node[part]
    except (OmegaConfBaseException, IndexError):
        return None  # "???", or an interpolation that this very override may be meant to repair


def _accepts(node, parameter: str) -> bool:
    """True if the callable that `node` describes takes `parameter` by name."""
    target = node.get("_target_") if isinstance(node, DictConfig) else None
    if target is None:
        return False
    try:
        parameters = inspect.signature(locate(target) if isinstance(target, str) else target).parameters
    except (ImportError, TypeError, ValueError):
        return True  # the callable does not say; it will complain itself
    return parameter in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())


def _unknown_key(cfg, parts: list[str], text: str) -> str:
    key = ".".join(parts)
    hint = did_you_mean(key, known_keys(cfg))
    adding = "" if text.startswith("~") else f" (to add a new key on purpose: +{text})"
    return f"unknown key {key!r} in override {text!r}{hint}{adding}"


def known_keys(node, prefix: str = "") -> list[str]:
    """Dotted names of every key below `node`, sections included; interpolations are not followed."""
    if isinstance(node, DictConfig) and not OmegaConf.is_missing(node, "_"):
        names = [str(name) for name in node.keys()]
    elif isinstance(node, ListConfig):
        names = [str(i) for i in range(len(node))]
    else:
        return []
    found = []
    for name in names:
        found.append(prefix + name)
        if not OmegaConf.is_interpolation(node, int(name) if isinstance(node, ListConfig) else name):
            found += known_keys(_child(node, name), f"{prefix}{name}.")
    return found


def _first_line(error: BaseException) -> str:
    text = error.args[0] if isinstance(error, KeyError) and error.args else str(error)
    return (str(text).splitlines() or [type(error).__name__])[0]
