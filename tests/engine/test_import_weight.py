"""Importing the detectron2 slice is light, leaves the process alone, and needs no optional package."""

import json
import subprocess

import pytest

pytestmark = pytest.mark.fallback("detectron2")

IMPORT_ALL = """
import builtins, json, logging, random, sys
import dinov2_detrex, detectron2
light = "torch" not in sys.modules and isinstance(detectron2.__version__, str)
optional = ["torchvision", "matplotlib", "tensorboard", "wandb", "cv2", "black", "fairscale", "shapely"]
optional += ["pkg_resources"]
for name in optional:
    sys.modules[name] = None  # importing it now raises
before = builtins.__import__, random.getstate(), list(logging.getLogger().handlers)
import detectron2.config, detectron2.engine, detectron2.checkpoint, detectron2.solver
import detectron2.data, detectron2.evaluation, detectron2.layers, detectron2.modeling, detectron2.structures
from detectron2.utils import comm, env, events, file_io, logger, registry

after = builtins.__import__, random.getstate(), list(logging.getLogger().handlers)
print(json.dumps({"light": light, "untouched": before == after}))
"""


def test_the_slice_imports_without_optional_packages_and_changes_nothing(python, python_env):
    done = subprocess.run(
        [python, "-c", IMPORT_ALL], env=python_env, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert seen["light"] and seen["untouched"]
