"""Shared by all tests: the engine's import order, the `fallback` marker, few threads."""

import os
import sys
from pathlib import Path

import pytest
import torch

import dinov2_detrex  # noqa: F401  makes detectron2 and detrex importable
from dinov2_detrex.engine import is_fallback

ROOT = Path(__file__).resolve().parents[1]


def pytest_configure(config):
    if "PYTEST_XDIST_WORKER" in os.environ:
        torch.set_num_threads(1)  # the workers share the cores


def pytest_collection_modifyitems(items):
    for item in items:
        for marker in item.iter_markers("fallback"):
            installed = [package for package in marker.args if not is_fallback(package)]
            if installed:
                item.add_marker(pytest.mark.skip(reason=f"about the fallback; {', '.join(installed)} is installed"))


@pytest.fixture
def python_env():
    """Environment for a child process that must import this checkout, whether or not it is installed."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}


@pytest.fixture
def python():
    """The interpreter that runs the tests."""
    return sys.executable
