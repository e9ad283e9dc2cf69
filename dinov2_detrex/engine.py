"""Which implementation serves `detectron2` and `detrex`: the installed package, or the slice in `fallback/`.

The fallback folder goes to the END of `sys.path`, so an installed package always wins, each for itself, and nothing
is patched.
"""

import importlib.abc
import importlib.util
import sys
from pathlib import Path

ENGINE_PACKAGES = ("detectron2", "detrex")
FALLBACK_DIR = Path(__file__).parent / "fallback"


class _MissingPartFinder(importlib.abc.MetaPathFinder):
    """Asked last, when nothing else found a module: says that the fallback lacks it and who has it."""

    def find_spec(self, fullname, path=None, target=None):
        package = fullname.partition(".")[0]
        if fullname != package and package in ENGINE_PACKAGES and is_fallback(package):
            raise ModuleNotFoundError(missing_part_message(fullname), name=fullname)
        return None


def missing_part_message(name: str) -> str:
    """The one line for a part of detectron2 or detrex, by its dotted name, that the fallback does not have."""
    package = name.partition(".")[0]
    return f"{name} is not in dinov2_detrex's slice of {package}; the real {package} has it, and is used once installed"


def enable_fallback() -> None:
    """Make the fallback importable behind everything that is installed; calling it again changes nothing."""
    if str(FALLBACK_DIR) not in sys.path:
        sys.path.append(str(FALLBACK_DIR))
        sys.meta_path.append(_MissingPartFinder())


def is_fallback(package: str) -> bool:
    """True where `package` ("detectron2" or "detrex") is served by the fallback, False where it is installed."""
    spec = importlib.util.find_spec(package)
    return spec is not None and spec.origin is not None and Path(spec.origin).is_relative_to(FALLBACK_DIR)


def reexport(module_name: str, home: dict[str, str]):
    """A module `__getattr__` for the fallback: names that live elsewhere are fetched at first use, others refused.

    Args:
        module_name: the fallback module's own name, e.g. "detrex.layers".
        home: exported name -> module that defines it.

    Returns:
        a function to be bound to `__getattr__`; it raises an ImportError for a name that `home` lacks.
    """

    def __getattr__(name: str):
        if name in home:
            return getattr(importlib.import_module(home[name]), name)
        if name.startswith("__"):
            raise AttributeError(f"module {module_name!r} has no attribute {name!r}")
        try:
            return importlib.import_module(f"{module_name}.{name}")  # a submodule that was not imported yet
        except ModuleNotFoundError:
            raise ImportError(missing_part_message(f"{module_name}.{name}")) from None

    return __getattr__
