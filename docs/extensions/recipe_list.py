"""Which recipes are there, and what does the head of each say? A page made of their files."""

import ast
from pathlib import Path

from docstrings import code, first_sentence, table

from dinov2_detrex.config.recipes import named_recipes, recipes_dir

_INTRODUCTION = """\
# Recipes

A recipe is a LazyConfig file. Every command that takes a config takes a recipe by its name (or by its file, or the
folder of a run, which holds its `config.yaml`, or a model package). Each recipe states only how it differs from the one
that it takes; its head says how to launch it, the hardware it is meant for, and its AP or "not yet trained"."""


def page() -> str:
    """The whole page."""
    recipes = named_recipes()
    listed = [[f"[{code(name)}](#{name.replace('_', '-')})", _first(path)] for name, path in recipes.items()]
    sections = [_section(name, path) for name, path in recipes.items()]
    return "\n\n".join([_INTRODUCTION, table(["recipe", "is"], listed), *sections, _parts()]) + "\n"


def _docstring(path: Path) -> str:
    return ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""


def _first(path: Path) -> str:
    return first_sentence(_docstring(path)).removesuffix(",").removesuffix(":")


def _section(name: str, path: Path) -> str:
    return f"## {name}\n\n{_docstring(path)}\n\nFile: {code(str(path.relative_to(recipes_dir())))}."


def _parts() -> str:
    shared = sorted((recipes_dir() / "configs").rglob("*.py"))
    rows = [[code(str(path.relative_to(recipes_dir()))), first_sentence(_docstring(path))] for path in shared]
    return "## What the recipes share\n\n" + table(["file", "holds"], rows)
