"""How does a config read as Python? One line for each value, `cfg.train.max_iter = 10`, and calls as calls."""

from collections.abc import Iterator, Mapping
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf, SCMode

from ..utils.registry import _convert_target_to_string


def to_py(cfg: DictConfig, prefix: str = "cfg.") -> str:
    """A text to read, to search and to compare, with keys sorted and interpolations resolved.

    Args:
        prefix: stands before each dotted key.
    """
    container = OmegaConf.to_container(cfg, resolve=True, structured_config_mode=SCMode.INSTANTIATE)
    values = cast(dict[str, Any], container)
    return "".join(f"{name} = {_expression(value)}\n" for name, value in _leaves(values, prefix))


def _leaves(values: Mapping, prefix: str) -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of everything that is no mapping, or one that describes a call or is empty."""
    for key, value in sorted(values.items(), key=lambda item: str(item[0])):
        if isinstance(value, Mapping) and value and "_target_" not in value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _expression(value: Any) -> str:
    if isinstance(value, Mapping):
        pairs = {key: _expression(item) for key, item in sorted(value.items(), key=lambda item: str(item[0]))}
        if "_target_" not in value:
            return "{" + ", ".join(f"{key!r}: {text}" for key, text in pairs.items()) + "}"
        del pairs["_target_"]
        return f"{_name(value['_target_'])}({', '.join(f'{key}={text}' for key, text in pairs.items())})"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_expression, value))}]"
    return _name(value) if callable(value) else repr(value)


def _name(target: Any) -> str:
    """The dotted name of a callable; another `_target_` (a config of a callable, an object) as an expression."""
    if isinstance(target, str):
        return target
    if isinstance(target, Mapping):
        return _expression(target)
    return _convert_target_to_string(target) if hasattr(target, "__qualname__") else repr(target)
