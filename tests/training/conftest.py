"""A tiny data set, made once a session, and runs of the training program on it, in this process or in children."""

import os
import subprocess
from pathlib import Path

import pytest
import torch

from dinov2_detrex.cli import run_command
from dinov2_detrex.data import generate_shapes

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
CONFIG = HERE / "tiny_config.py"


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """The models are too small for more, and threads that wait for each other slow down a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def tiny_shapes(tmp_path_factory):
    return generate_shapes(tmp_path_factory.mktemp("data") / "shapes", num_train=14, num_val=5, image_size=48)


@pytest.fixture
def tiny_env(tiny_shapes, monkeypatch):
    """The tiny config and its data are found from this process."""
    monkeypatch.setenv("TINY_SHAPES", str(tiny_shapes))
    monkeypatch.syspath_prepend(str(HERE))
    return tiny_shapes


@pytest.fixture
def train(tiny_env, tmp_path):
    """Run the program in this process: train("name", "train.max_iter=3", "--resume") -> (status, output dir).

    Without a report at its end, unless asked for by report=True.
    """

    def run(name, *arguments, report=False):
        folder = tmp_path / name
        given = ["--config-file", str(CONFIG), f"train.output_dir={folder}", *arguments]
        return run_command("train", given + ([] if report else ["--no-report"])), folder

    return run


@pytest.fixture
def command(tiny_shapes, python, python_env, tmp_path):
    """Command line and keywords for `subprocess` that run tools/train_net.py on the tiny config, without a report."""

    def make(name, *arguments, launcher=(), report=False):
        path = os.pathsep.join([str(HERE), python_env["PYTHONPATH"]])
        env = {**python_env, "PYTHONPATH": path, "TINY_SHAPES": str(tiny_shapes)}
        script = [*(launcher or [python]), str(ROOT / "tools" / "train_net.py")]
        folder = tmp_path / name
        arguments = arguments if report else (*arguments, "--no-report")
        return [*script, "--config-file", str(CONFIG), f"train.output_dir={folder}", *arguments], {"env": env}, folder

    return make


@pytest.fixture
def call(command):
    """Run the command to its end: call("name", ...) -> (CompletedProcess, output dir)."""

    def run(name, *arguments, timeout=300, **options):
        line, keywords, folder = command(name, *arguments, **options)
        return subprocess.run(line, capture_output=True, text=True, timeout=timeout, **keywords), folder

    return run
