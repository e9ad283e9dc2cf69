"""Shared by all tests: the engine's import order, the `fallback` and `real` markers, few threads."""

import logging
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from coco_folder import CocoFolder
from hypothesis import HealthCheck, settings

import dinov2_detrex  # noqa: F401  makes detectron2 and detrex importable
from dinov2_detrex.engine import is_fallback

ROOT = Path(__file__).resolve().parents[1]
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])  # also a busy one
settings.load_profile("any machine")


def pytest_configure(config):
    if "PYTEST_XDIST_WORKER" in os.environ:
        torch.set_num_threads(1)  # the workers share the cores


def pytest_collection_modifyitems(items):
    for item in items:
        for marker in item.iter_markers("fallback"):
            installed = [package for package in marker.args if not is_fallback(package)]
            if installed:
                item.add_marker(pytest.mark.skip(reason=f"about the fallback; {', '.join(installed)} is installed"))
        for marker in item.iter_markers("real"):
            absent = [package for package in marker.args if is_fallback(package)]
            if absent:
                item.add_marker(pytest.mark.skip(reason=f"needs the real {', '.join(absent)}, which is not installed"))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup():
    """Every test and what it sets up draw the same random numbers, whichever tests ran before."""
    torch.manual_seed(0)
    np.random.seed(0)


@pytest.fixture
def python_env():
    """Environment for a child process that must import this checkout, whether or not it is installed."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}


@pytest.fixture
def python():
    """The interpreter that runs the tests."""
    return sys.executable


@pytest.fixture
def coco(tmp_path):
    """An empty data set folder to fill."""
    return CocoFolder(tmp_path / "own data")


@pytest.fixture
def sound_coco(coco):
    """Two images with a box each, nothing wrong."""
    coco.add_image(1)
    coco.add_image(2, width=50, height=80)
    coco.add_box([5, 5, 20, 10], image_id=1, category_id=1)
    coco.add_box([10.5, 20, 30, 40.25], image_id=2, category_id=2)
    return coco.write()


@pytest.fixture(scope="session", autouse=True)
def first_loggers():
    """What is restored before and after each test, also of what fixtures of a wider scope leave behind."""
    loggers = [logging.getLogger(name) for name in ("detectron2", "detrex", "fvcore", "dinov2_detrex", "some_logger")]
    return [(logger, list(logger.handlers), logger.level, logger.propagate) for logger in loggers]


@pytest.fixture(autouse=True)
def restored_loggers(first_loggers):
    """Handlers, levels and propagation of the packages' loggers are those of the session's beginning."""
    _restore(first_loggers)
    yield
    _restore(first_loggers)


def _restore(loggers):
    for logger, handlers, level, propagate in loggers:
        for handler in set(logger.handlers) - set(handlers):
            handler.close()
        logger.handlers[:], logger.level, logger.propagate = handlers, level, propagate
        logger.manager._clear_cache()
