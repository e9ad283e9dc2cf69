"""How is the documentation built? `make docs` writes it to docs/_build/html; warnings are errors."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE / "extensions"), str(HERE.parent)]

import dinov2_detrex  # noqa: E402  makes detectron2 and detrex importable

project = "dinov2_detrex"
author = "the authors of dinov2_detrex"
version = release = dinov2_detrex.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "reference_pages",
]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build", "extensions", "notebooks"]

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 4

smartquotes = False  # quotes and double dashes are meant as they are
default_role = "code"  # docstrings put code between single backticks
autodoc_default_options = {"members": True}
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_use_rtype = False
napoleon_use_ivar = True  # of dataclasses, whose fields are members as well
napoleon_preprocess_types = False
python_maximum_signature_line_length = 90
toc_object_entries_show_parents = "hide"

html_theme = "furo"
html_title = f"dinov2_detrex {version}"
html_static_path = ["_static"]
html_css_files = ["wide.css"]
html_show_copyright = False
pygments_style = "friendly"
pygments_dark_style = "monokai"
