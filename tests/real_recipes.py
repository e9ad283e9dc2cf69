"""Which recipes need the real engines: tests over all recipes are skipped for those where these are not installed."""

import importlib.util
from pathlib import Path

import pytest

from dinov2_detrex.config import recipes_dir

NEEDS = {"rcnn_dinov2": ("detectron2",), "h_deformable_detr_dinov2": ("detectron2", "detrex")}  # by folder of projects/


def has_detrex_checkout():
    """True where detrex's own projects can be imported."""
    try:
        return importlib.util.find_spec("projects.h_deformable_detr") is not None
    except ModuleNotFoundError:
        return False


NEEDS_CHECKOUT = pytest.mark.skipif(not has_detrex_checkout(), reason="detrex's checkout is not on PYTHONPATH")


def project_of(path):
    """The folder of projects/ that a recipe lies in; "" for a shared config."""
    path = Path(path)
    parts = (path.relative_to(recipes_dir()) if path.is_absolute() else path).parts
    return parts[1] if parts[0] == "projects" else ""


def marked(path):
    """The path as a parameter with the marks of what the recipe there needs."""
    project = project_of(path)
    marks = [pytest.mark.real(*NEEDS[project])] if project in NEEDS else []
    marks += [NEEDS_CHECKOUT] if project == "h_deformable_detr_dinov2" else []
    return pytest.param(path, marks=marks)
