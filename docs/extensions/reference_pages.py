"""Sphinx extension: write the pages of the reference that are made of the code, before anything is read."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import api_pages
import command_line
import config_keys
import notebook_pages
import recipe_list

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


def setup(app) -> dict[str, bool]:
    app.connect("builder-inited", write_pages)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
