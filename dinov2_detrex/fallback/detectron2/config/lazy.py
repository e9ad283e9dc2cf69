"""How are calls written down in a config file, and how are such files loaded, overridden and saved?

`LazyCall` describes a call, `LazyConfig` gathers the file operations; `instantiate` makes the call.
"""

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig

from ..utils.registry import _convert_target_to_string
from . import overrides as _overrides
from . import python_text, yaml_io
from .python_files import as_config, run_config_file

__all__ = ["LazyCall", "LazyConfig"]


class LazyCall:
    """`LazyCall(target)(key=value, ...)` is a config that, when instantiated, calls `target(key=value, ...)`.

    Args:
        target: a callable, its dotted path, or a config that builds a callable.

    Raises:
        TypeError: `target` is none of these.
    """

    def __init__(self, target: Callable | str | Mapping):
        if not (callable(target) or isinstance(target, (str, Mapping))):
            raise TypeError(f"LazyCall needs a callable, a dotted path or a config of one, got {target!r}")
        self._target = target

    def __call__(self, **kwargs) -> DictConfig:
        return as_config({**kwargs, "_target_": _storable(self._target)})


def _storable(target: Any) -> Any:
    """The target as a config can hold it: omegaconf takes neither dataclass types nor the builtin dict as values."""
    if isinstance(target, type) and (is_dataclass(target) or target is dict):
        return _convert_target_to_string(target)
    return target


class LazyConfig:
    """Load, override and save configs. Loading a config executes it: open only files that you trust."""

    @staticmethod
    def load(filename: str | os.PathLike, keys: str | Sequence[str] | None = None) -> Any:
        """Load a `.py`, `.yaml` or `.yml` config.

        Args:
            filename: path, relative to the working directory.
            keys: None for everything public that is a config; a name for that value alone; names for a tuple.

        Raises:
            ValueError: empty name or another extension.
            FileNotFoundError: there is no such file.
            SyntaxError: a Python file with a syntax error.
            KeyError: `keys` names what the file does not define.
        """
        filename = os.fspath(filename)
        if not filename:
            raise ValueError("no config file was given: pass one with --config-file")
        values = _READERS.get(Path(filename).suffix, _refuse_extension)(filename)
        if keys is None:
            return _public_configs(values) if filename.endswith(".py") else _wrap_container(values)
        if isinstance(keys, str):
            return _wrap_dict(_lookup(values, keys, filename))
        return tuple(_wrap_dict(_lookup(values, key, filename)) for key in keys)

    @staticmethod
    def load_rel(filename: str | os.PathLike, keys: str | Sequence[str] | None = None) -> Any:
        """`load`, relative to the folder of the source file that calls this."""
        caller = sys._getframe(1).f_code.co_filename
        if caller.startswith("<"):
            raise ValueError(f"load_rel needs a calling source file to be relative to; it was called from {caller}")
        return LazyConfig.load(os.path.join(os.path.dirname(caller), os.fspath(filename)), keys)

    @staticmethod
    def apply_overrides(cfg: DictConfig | ListConfig, overrides: Sequence[str]) -> DictConfig | ListConfig:
        """Apply `key=value` strings in hydra's grammar to `cfg` in place; see `overrides.py`."""
        return _overrides.apply_overrides(cfg, overrides)

    @staticmethod
    def save(cfg: DictConfig, filename: str | os.PathLike) -> None:
        """Write `cfg` as YAML that `load` reads; see `yaml_io.py`."""
        yaml_io.save(cfg, os.fspath(filename))

    @staticmethod
    def to_py(cfg: DictConfig, prefix: str = "cfg.") -> str:
        """`cfg` as lines of Python to read; see `python_text.py`."""
        return python_text.to_py(cfg, prefix)


def _refuse_extension(filename: str):
    raise ValueError(f"config file {filename!r} must end with .py, .yaml or .yml")


_READERS = {".py": run_config_file, ".yaml": yaml_io.read, ".yml": yaml_io.read}


def _public_configs(values: Mapping[str, Any]) -> DictConfig:
    """Every name without a leading underscore that holds a config or a dict."""
    kinds = (DictConfig, ListConfig, dict)
    return as_config({k: v for k, v in values.items() if not k.startswith("_") and isinstance(v, kinds)})


def _lookup(values: Any, key: str, filename: str) -> Any:
    if key not in values:
        raise KeyError(f"{filename} does not define {key!r}")
    return values[key]


def _wrap_dict(value: Any) -> Any:
    return as_config(value) if isinstance(value, dict) else value


def _wrap_container(value: Any) -> DictConfig | ListConfig:
    if isinstance(value, list):
        return ListConfig(value, flags={"allow_objects": True})
    return as_config(value if value is not None else {})
