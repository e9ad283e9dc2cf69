"""What do `key=value` strings do to a config? They set values in place, in hydra's override grammar.

Grammar: https://hydra.cc/docs/advanced/override_grammar/basic.
"""

import difflib
import logging
from collections.abc import Sequence

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import OverrideParseException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import ValidationError

logger = logging.getLogger(__name__)


def apply_overrides(cfg: DictConfig | ListConfig, overrides: Sequence[str]) -> DictConfig | ListConfig:
    """Set values of `cfg` in place, the last override of a key wins; a dict is merged, a list replaces.

    A key that does not exist is created, with a warning that names the closest one unless it is written `+key=value`.

    Raises:
        AssertionError: `cfg` is not an omegaconf config.
        OverrideParseException: not of the form key=value, or a flag after the first override.
        KeyError: a prefix of the key is a plain value.
        omegaconf.errors.ConfigIndexError: a list has no such element.
        omegaconf.errors.ValidationError: a sweep (`1,2`, `choice`, `range`); it is a ValueError.
        NotImplementedError: deletion, `~key`.
    """
    assert OmegaConf.is_config(cfg), f"overrides apply to an omegaconf config, got {type(cfg)}"
    parser = OverridesParser.create()
    for text in overrides:
        if text.startswith("--"):
            raise OverrideParseException(text, f"{text}: flags must precede the key=value overrides")
        _apply(cfg, parser.parse_overrides([text])[0], text)
    return cfg


def _apply(cfg: DictConfig | ListConfig, override: Override, text: str) -> None:
    key = override.key_or_group
    if override.is_delete():
        raise NotImplementedError(f"{text}: deletion is not supported; set {key}=null instead")
    if override.is_sweep_override():
        raise ValidationError(f"{text}: sweeps are not supported; write a list as {key}=[1,2]")
    parent = _deepest_existing(cfg, key)
    if parent is not None and not override.is_add():
        _warn_of_new_key(cfg, *parent, text)
    OmegaConf.update(cfg, key, override.value(), merge=True)


def _deepest_existing(cfg: DictConfig | ListConfig, key: str) -> tuple[str, str] | None:
    """None if `key` exists, else (the longest prefix of it that is a config, the first part that is new)."""
    parts = key.split(".")
    for i, part in enumerate(parts):
        prefix = ".".join(parts[:i])
        node = OmegaConf.select(cfg, prefix) if prefix else cfg  # None also for a value that is still missing, "???"
        if node is not None and not OmegaConf.is_config(node):
            raise KeyError(f"cannot set {key}: {prefix} is the value {node!r}, not a config")
        if node is None or (isinstance(node, DictConfig) and part not in _keys(node)):
            return prefix, part
    return None  # a wrong list index is left to the update itself


def _keys(node: DictConfig) -> list[str]:
    return [str(k) for k in node.keys()]


def _warn_of_new_key(cfg: DictConfig | ListConfig, prefix: str, part: str, text: str) -> None:
    node = OmegaConf.select(cfg, prefix) if prefix else cfg
    siblings = _keys(node) if isinstance(node, DictConfig) else []
    prefix = f"{prefix}." if prefix else ""
    close = difflib.get_close_matches(part, siblings, n=1, cutoff=0.5)
    hint = f"did you mean {prefix}{close[0]}?" if close else f"the keys there are {', '.join(siblings) or 'none'}."
    logger.warning("Override %r creates a new key; %s Write +%s to say that it is meant.", text, hint, text)
