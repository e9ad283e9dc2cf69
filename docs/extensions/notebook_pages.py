"""How is the notebook read on the site? Its texts and code as a page, without outputs: those are made by running it."""

import json
from pathlib import Path

NOTEBOOK = Path(__file__).parents[1] / "notebooks" / "from_pictures_to_boxes.ipynb"
_HEAD = "The notebook itself is `docs/notebooks/{name}`; it is executed by the tests, on tiny data."


def page() -> str:
    """The whole page."""
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    first, *rest = (_cell(cell) for cell in cells)
    return "\n\n".join([first, _HEAD.format(name=NOTEBOOK.name), *rest]) + "\n"


def _cell(cell: dict) -> str:
    source = "".join(cell["source"]).strip()
    return source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```"
