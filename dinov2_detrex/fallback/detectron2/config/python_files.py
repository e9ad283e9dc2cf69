"""How is a Python config file executed, and what do relative imports between such files mean?

`from ..common.train import train` inside a config file goes by the position of files alone: one dot is the folder of
the importing file, each further dot one folder up. No package, no `__init__.py`, no cache: every import runs the
file anew, so that two importers never share an object.
"""

import builtins
import contextlib
import itertools
import os
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from pathlib import Path
from types import ModuleType
from typing import Any

from omegaconf import DictConfig

CONFIG_PACKAGE = "_detectron2_lazy_config"  # `__package__` of every running config file, in no sys.modules
_loading: ContextVar[tuple[str, ...]] = ContextVar("config files being executed, outermost first", default=())
_serial = itertools.count()


def as_config(values: Mapping) -> DictConfig:
    """`values` as a config that may hold any object."""
    return DictConfig(content=dict(values), flags={"allow_objects": True})


def run_config_file(filename: str) -> dict[str, Any]:
    """Execute a config file as a script and return its names; relative imports work while it runs.

    Raises:
        FileNotFoundError: there is no such file.
        SyntaxError: names the file and the line.
        ImportError: the file imports itself, directly or through others.
    """
    names = {"__file__": filename, "__package__": CONFIG_PACKAGE}
    with _relative_imports():
        _execute(filename, names)
    return names


def _execute(filename: str, names: dict[str, Any]) -> None:
    path = os.path.realpath(filename)
    chain = _loading.get()
    if path in chain:
        cycle = " -> ".join([*chain[chain.index(path) :], path])
        raise ImportError(f"config files import each other in a cycle: {cycle}")
    code = _compile(filename)
    token = _loading.set((*chain, path))
    try:
        exec(code, names)
    finally:
        _loading.reset(token)


def _compile(filename: str):
    source = Path(filename).read_bytes()
    try:
        return compile(source, filename, "exec")
    except SyntaxError as error:
        raise SyntaxError(f"config file {filename} has a syntax error in line {error.lineno}: {error.msg}") from error


@contextlib.contextmanager
def _relative_imports() -> Iterator[None]:
    """Give relative imports in config files their meaning; every other import takes its usual way."""
    usual_import = builtins.__import__

    def import_with_configs(name, globals=None, locals=None, fromlist=(), level=0):
        if level and globals and globals.get("__package__") == CONFIG_PACKAGE:
            return _import_config(globals["__file__"], name, level, fromlist or ())
        return usual_import(name, globals, locals, fromlist, level)

    builtins.__import__ = import_with_configs
    try:
        yield
    finally:
        builtins.__import__ = usual_import


def _import_config(importer: str, name: str, level: int, fromlist: tuple[str, ...]) -> ModuleType:
    """The module behind `from <level dots><name> import <fromlist>` in the config file `importer`."""
    path = _locate_file(importer, name, level)
    module = ModuleType(f"{CONFIG_PACKAGE}.{next(_serial)}.{Path(path).stem}")
    module.__file__, module.__package__ = path, CONFIG_PACKAGE
    _execute(path, module.__dict__)
    wanted = [n for n in vars(module) if not n.startswith("_")] if "*" in fromlist else fromlist
    for key in wanted:
        if not hasattr(module, key):
            raise ImportError(f"cannot import name {key!r} from config file {path} (imported in {importer})")
        if isinstance(getattr(module, key), dict):
            setattr(module, key, as_config(getattr(module, key)))
    return module


def _locate_file(importer: str, name: str, level: int) -> str:
    if not name:
        raise ImportError(f"{importer}: `from {'.' * level} import x` is not supported, write `from .x import name`")
    folder = os.path.dirname(importer)
    for _ in range(level - 1):
        folder = os.path.join(folder, os.pardir)
    path = os.path.normpath(os.path.join(folder, *name.split("."))) + ".py"
    if not os.path.isfile(path):
        raise ImportError(f"{importer} imports {'.' * level}{name}, but there is no config file {path}")
    return path
