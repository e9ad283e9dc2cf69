"""Sphinx extension: write the pages of the reference that are made of the code, before anything is read."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import api_pages
import command_line
import config_keys
import notebook_pages
import recipe_list
from docutils import nodes

PAGES: dict[str, Callable[[], str]] = {
    "reference/config.md": config_keys.page,
    "reference/recipes.md": recipe_list.page,
    "reference/commands.md": command_line.page,
    "reference/api.md": api_pages.index,
    **{f"reference/api_{name}.md": partial(api_pages.page, name) for name in api_pages.FACES},
    "tutorials/notebook.md": notebook_pages.page,
}


def write_pages(app) -> None:
    """Write each page whose text has changed."""
    for name, page in PAGES.items():
        path, text = Path(app.srcdir, name), page()
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


def set_dashes(app, doctree, docname) -> None:
    """A dash between a parameter and what is said of it, where Sphinx writes two hyphens."""
    for text in list(doctree.findall(nodes.Text)):
        if text.astext() == " -- ":
            text.parent.replace(text, nodes.Text(" \u2013 "))


def leave_out_aliases(app, what, name, obj, skip, options) -> bool | None:
    """Fields of named tuples say nothing that the class has not said."""
    return True if str(getattr(obj, "__doc__", "")).startswith("Alias for field number") else None


def keep_colons(app, what, name, obj, options, lines) -> None:
    """A blank first line, without which napoleon takes the words of a property before a colon for its type."""
    if what == "property":
        lines.insert(0, "")


def setup(app) -> dict[str, bool]:
    app.connect("builder-inited", write_pages)
    app.connect("autodoc-skip-member", leave_out_aliases)
    app.connect("autodoc-process-docstring", keep_colons, priority=100)
    app.connect("doctree-resolved", set_dashes)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
