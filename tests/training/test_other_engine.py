"""A run that one engine started ends on the other with the weights of an undisturbed run, in both directions.

DINOV2_DETREX_OTHER_PYTHON names the interpreter of an environment with another engine than the one that runs the tests,
e.g. one in which the real detectron2 and detrex are installed.
"""

import os
import subprocess
import sys

import pytest
import torch

from dinov2_detrex.training import checkpoint

OTHER = os.environ.get("DINOV2_DETREX_OTHER_PYTHON", "")
OFTEN = ("train.checkpointer.period=3", "train.eval_period=0")
STOPPED_AFTER = 5

pytestmark = pytest.mark.skipif(not OTHER, reason="DINOV2_DETREX_OTHER_PYTHON names no environment of another engine")


def engines(interpreter, env):
    """What serves detectron2 and detrex there, e.g. ["fallback", "fallback"]."""
    run = subprocess.run([interpreter, "-m", "dinov2_detrex.env"], env=env, capture_output=True, text=True, check=True)
    rows = dict(line.split(maxsplit=1) for line in run.stdout.splitlines())
    return [rows[name].split()[0] for name in ("detectron2", "detrex")]


@pytest.fixture(scope="module", autouse=True)
def two_engines(request):
    """Both environments run, and are not the same."""
    env = {**os.environ, "PYTHONPATH": str(request.config.rootpath)}
    here, there = (engines(interpreter, env) for interpreter in (sys.executable, OTHER))
    if here == there:
        pytest.skip(f"DINOV2_DETREX_OTHER_PYTHON={OTHER} has the same engines: {here}")


@pytest.fixture
def on(call, python):
    """Train in the environment "here" or "there": on("there", "folder", ...) -> output dir."""

    def train(side, name, *options):
        done, folder = call(name, *OFTEN, *options, launcher=[python if side == "here" else OTHER])
        assert done.returncode == 0, done.stderr
        return folder

    return train


def stop(folder):
    """Make the folder what a kill after iteration `STOPPED_AFTER` would have left."""
    for path in folder.glob("model_*.pth"):
        if path.stem in ("model_final", "model_best") or int(path.stem[-7:]) > STOPPED_AFTER:
            path.unlink()
    (folder / "last_checkpoint").write_text(f"model_{STOPPED_AFTER:07d}.pth")


def weights(folder):
    return checkpoint.read(folder / "model_final.pth")["model"]


@pytest.mark.parametrize("first, second", [("here", "there"), ("there", "here")])
def test_a_run_resumes_on_the_other_engine_and_ends_as_if_nothing_had_happened(on, first, second):
    folder = on(first, "run")
    expected, saved = weights(folder), (folder / "config.yaml").read_text()
    stop(folder)
    resumed = weights(on(second, "run", "--resume"))
    assert resumed.keys() == expected.keys()
    assert all(torch.equal(resumed[name], expected[name]) for name in expected)
    assert (folder / "config.yaml").read_text() == saved
