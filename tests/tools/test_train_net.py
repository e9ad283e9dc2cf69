"""tools/train_net.py and the wheel: the program starts from a checkout, and from site-packages in an empty folder."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dinov2_detrex.data import generate_shapes
from dinov2_detrex.engine import FALLBACK_DIR

ROOT = Path(__file__).resolve().parents[2]
CONFIG = "projects/dino_dinov2/configs/shapes/dino_dinov2_tiny_shapes.py"
SMALL = ("train.device=cpu", "train.max_iter=2", "train.output_dir=out", "dataloader.train.total_batch_size=2")
SMALL += (
    "model.embed_dim=32",
    "model.neck.norm_layer.num_groups=4",
    "model.num_queries=12",
    "model.backbone.net.embed_dim=48",
    "model.backbone.net.depth=2",
)


@pytest.fixture
def elsewhere(tmp_path):
    """An empty folder to work in, with the shapes data set beside it, and an environment without this checkout."""
    root = generate_shapes(tmp_path / "datasets" / "shapes", num_train=4, num_val=2, image_size=48).parent
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    (tmp_path / "empty").mkdir()
    return tmp_path / "empty", env | {
        "DETECTRON2_DATASETS": str(root),
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }


def check_call(line, **keywords):
    result = subprocess.run([str(part) for part in line], capture_output=True, text=True, timeout=300, **keywords)
    assert result.returncode == 0, result.stdout + result.stderr
    return result


def assert_trained(folder):
    files = {path.name for path in (folder / "out").iterdir()}
    expected = {
        "config.yaml",
        "log.txt",
        "metrics.json",
        "model_final.pth",
        "last_checkpoint",
        "coco_instances_results.json",
    }
    assert expected <= files and any(name.startswith("events.out.tfevents") for name in files)


def test_the_tool_trains_and_evaluates_from_any_folder_without_an_installation(elsewhere, python):
    folder, env = elsewhere
    check_call([python, ROOT / "tools" / "train_net.py", "--config-file", CONFIG, *SMALL], cwd=folder, env=env)
    assert_trained(folder)


@pytest.mark.slow
@pytest.mark.fallback("detectron2", "detrex")
def test_one_installed_engine_beside_the_other_ones_fallback_trains_the_same_weights(elsewhere, python, tmp_path):
    folder, env = elsewhere
    weights = []
    for installed in ("detectron2", "detrex"):  # the fallback's code, where an installation would put it
        site = tmp_path / f"site_{installed}"
        shutil.copytree(FALLBACK_DIR / installed, site / installed, ignore=shutil.ignore_patterns("__pycache__"))
        line = [python, ROOT / "tools" / "train_net.py", "--config-file", CONFIG, *SMALL, "dataloader.evaluator=null"]
        done = check_call(
            [*line, f"train.output_dir={installed}"], cwd=folder, env={**env, "PYTHONPATH": f"{ROOT}:{site}"}
        )
        assert str(site / installed) in done.stdout and str(FALLBACK_DIR) in done.stdout
        weights.append(torch.load(folder / installed / "model_final.pth", weights_only=True)["model"])
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


@pytest.fixture
def wheel(tmp_path, python):
    """The project's wheel, built from its sdist, which is made of a copy so that the checkout stays clean."""
    pytest.importorskip("setuptools", minversion="77")  # what pyproject.toml asks for
    source, python_only = tmp_path / "source", shutil.ignore_patterns("__pycache__", "*.pyc")
    for folder in ("dinov2_detrex", "configs", "projects"):
        shutil.copytree(ROOT / folder, source / folder, ignore=python_only)
    for name in ("setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    check_call([python, "setup.py", "-q", "sdist", "-d", tmp_path / "dist"], cwd=source)
    (sdist,) = (tmp_path / "dist").glob("*.tar.gz")
    build = [python, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--disable-pip-version-check", "-q"]
    check_call([*build, "-w", tmp_path / "dist", sdist])
    return next((tmp_path / "dist").glob("*.whl"))


@pytest.mark.slow
def test_the_wheel_installs_into_a_clean_environment_and_trains_outside_the_checkout(
    wheel, elsewhere, python, tmp_path
):
    folder, env = elsewhere
    check_call([python, "-m", "venv", "--without-pip", tmp_path / "venv"])
    clean = tmp_path / "venv" / "bin" / "python"
    packages = Path(check_call([clean, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]).stdout.strip())
    parents = [
        path for path in sys.path if Path(path).name == "site-packages"
    ]  # several where environments are layered
    (packages / "parent.pth").write_text("\n".join(parents))  # torch and the like, not installed twice
    install = [python, "-m", "pip", "--disable-pip-version-check", "--python", clean, "install", "-q", "--no-deps"]
    check_call([*install, "--no-index", "--force-reinstall", wheel])
    where = "import dinov2_detrex; print(dinov2_detrex.__file__)"
    imported = Path(check_call([clean, "-c", where], cwd=folder, env=env).stdout.strip())
    assert imported.is_relative_to(packages)
    shipped, here = (
        {path.relative_to(root) for folder in ("configs", "projects") for path in (root / folder).rglob("*.py")}
        for root in (imported.parent, ROOT)
    )
    assert shipped == here
    check_call([clean.parent / "dinov2-detrex-train", "--config-file", CONFIG, *SMALL], cwd=folder, env=env)
    assert_trained(folder)
    drawn = check_call(
        [clean.parent / "dinov2-detrex", "draw", "--config-file", "out/config.yaml"], cwd=folder, env=env
    )
    assert "predictions.png" in drawn.stdout
