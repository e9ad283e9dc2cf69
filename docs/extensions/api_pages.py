"""Which Python names are public, and what are they? A page for each package, made of its face; autodoc fills it in."""

import importlib
import inspect
from types import ModuleType

from docstrings import first_sentence, table

FACES = {
    "backbone": "dinov2_detrex.backbone",
    "detector": "dinov2_detrex.detector",
    "data": "dinov2_detrex.data",
    "evaluation": "dinov2_detrex.evaluation",
    "inference": "dinov2_detrex.inference",
    "config": "dinov2_detrex.config",
    "analysis": "dinov2_detrex.analysis",
    "errors": "dinov2_detrex.runtime.errors",
}


def index() -> str:
    """The list of the packages."""
    modules = {name: importlib.import_module(path) for name, path in FACES.items()}
    rows = [[f"[`{FACES[name]}`](api_{name}.md)", _says(module)] for name, module in modules.items()]
    toctree = "\n".join(["```{toctree}", ":hidden:", "", *(f"api_{name}" for name in FACES), "```"])
    return "\n\n".join([_INTRODUCTION, table(["package", "is"], rows), toctree]) + "\n"


_INTRODUCTION = """\
# Python API

What stands here is contract: recipes and saved configs name these, by the package and not by the file in which a class
lives. The four that everybody needs are at the top as well: `dinov2_detrex.TimmBackbone`,
`dinov2_detrex.SimpleFeaturePyramid`, `dinov2_detrex.DINO` and `dinov2_detrex.get_config`."""


def page(name: str) -> str:
    """The page of one package: its docstring, and a directive of autodoc for every public name."""
    module = importlib.import_module(FACES[name])
    directives = [_directive(module, exported) for exported in public_names(module)]
    body = "\n\n".join(filter(None, directives))
    return f"# {FACES[name]}\n\n{_says(module)}\n\n```{{eval-rst}}\n.. currentmodule:: {FACES[name]}\n\n{body}\n```\n"


def public_names(module: ModuleType) -> list[str]:
    """`__all__`, or what the module defines itself."""
    own = [name for name, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__]
    return list(getattr(module, "__all__", [name for name in own if not name.startswith("_")]))


def _says(module: ModuleType) -> str:
    return first_sentence(module.__doc__ or "")


def _directive(module: ModuleType, name: str) -> str:
    value = getattr(module, name)
    if inspect.isclass(value):
        kind = "autoexception" if issubclass(value, BaseException) else "autoclass"
        return f".. {kind}:: {name}"
    return f".. autofunction:: {name}" if callable(value) else ""
