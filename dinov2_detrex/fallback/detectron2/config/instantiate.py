"""How does a lazy config become the object that it describes? Depth first: arguments, then the call."""

import logging
from collections.abc import Mapping
from dataclasses import is_dataclass
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from ..utils.registry import _convert_target_to_string, locate

__all__ = ["instantiate"]


def instantiate(cfg: Any) -> Any:
    """Build what `cfg` describes; `cfg` itself is not changed.

    Args:
        cfg: a mapping with `_target_` (a callable, its dotted path, or a config that builds it), a list of such, or
            anything else. `OmegaConf.to_object` of a config is as good as the config.

    Returns:
        the called target; a list of instantiated elements for a list; the instance for a config backed by a
        dataclass; any other value unchanged and not searched. List arguments reach the callable as plain lists.

    Raises:
        ImportError: a dotted path leads nowhere.
        AssertionError: the target is not callable.
        Exception: whatever the call raises; a TypeError is logged with the target's name first.
    """
    if isinstance(cfg, ListConfig):
        return ListConfig([_as_argument(item) for item in cfg], flags={"allow_objects": True})
    return _as_argument(cfg)


def _as_argument(cfg: Any) -> Any:
    """`instantiate`, with plain lists: torch keeps some arguments (betas) in states that must hold plain types."""
    if isinstance(cfg, (list, ListConfig)):
        return [_as_argument(item) for item in cfg]
    if isinstance(cfg, DictConfig) and is_dataclass(OmegaConf.get_type(cfg)):
        return OmegaConf.to_object(cfg)
    if isinstance(cfg, Mapping) and "_target_" in cfg:
        return _call(cfg)
    return cfg


def _call(cfg: Mapping) -> Any:
    keywords = {key: _as_argument(cfg[key]) for key in cfg if key != "_target_"}
    target = _as_argument(cfg["_target_"])
    if isinstance(target, str):
        name, target = target, locate(target)
    else:
        name = _name_of(target)
    assert callable(target), f"_target_ must be callable, got {name} = {target!r}"
    try:
        return target(**keywords)
    except TypeError:
        logging.getLogger(__name__).error("Error when instantiating %s with keywords %s", name, sorted(keywords))
        raise


def _name_of(target: Any) -> str:
    try:
        return _convert_target_to_string(target)
    except Exception:  # only for the log line: partials and other objects have no dotted name
        return repr(target)
