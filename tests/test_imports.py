"""Imports flow downward, in no circle: the order that ARCHITECTURE.md draws."""

import ast
import graphlib
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "dinov2_detrex"
LAYERS = [  # bottom first; the members of a layer do not import each other, except where ALSO says so
    {"runtime", "engine"},
    {"env"},
    {"fallback"},
    {"backbone", "data", "evaluation"},
    {"detector"},
    {"config", "visualization"},
    {"training"},
    {"analysis", "inference"},
    {"export"},
    {"cli"},
    {"commands"},
]
FALLBACK_DOOR = "fallback/ours.py"  # through which the fallback reaches classes of this project
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if "configs" not in path.parts[len(PACKAGE.parts) :])


def section_of(name: str) -> str:
    """`dinov2_detrex.data.loader` -> "data"; the package itself -> ""."""
    return (name.split(".") + [""])[1]


def level(section: str) -> int:
    return next(i for i, layer in enumerate(LAYERS) if section in layer)


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def is_main_block(node: ast.stmt) -> bool:
    """`if __name__ == "__main__":`, the door of `python -m`, which nothing imports."""
    return isinstance(node, ast.If) and "__main__" in ast.unparse(node.test)


def imports(path: Path) -> set[str]:
    """Names of this package's modules that a file imports, at its top or inside functions."""
    tree = ast.parse(path.read_text())
    tree.body = [node for node in tree.body if not is_main_block(node)]
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in found if name.split(".")[0] == PACKAGE.name}


def known(name: str) -> str:
    """The module that an imported name is, or is in."""
    names = {module_name(path) for path in MODULES}
    while name not in names:
        name = name.rpartition(".")[0]
    return name


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_no_module_imports_upwards(path):
    own = section_of(module_name(path))
    if not own or path.relative_to(PACKAGE).as_posix() == FALLBACK_DOOR:
        return
    sections = {section_of(known(name)) for name in imports(path)} - {own, ""}
    assert {name for name in sections if level(name) >= level(own)} == set()


def test_every_part_of_the_package_has_its_place():
    parts = {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in MODULES} - {"__init__"}
    assert parts == set().union(*LAYERS)


def test_imports_form_no_circle():
    graph = {module_name(path): {known(name) for name in imports(path)} - {module_name(path)} for path in MODULES}
    list(graphlib.TopologicalSorter(graph).static_order())  # raises CycleError, naming the circle
