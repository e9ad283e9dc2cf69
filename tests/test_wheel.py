"""What is installed is whole: the wheel holds every module, the recipes of projects/ and configs/, and nothing else."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ("dinov2_detrex", "configs", "projects")
BUILD = "import sys; from setuptools import build_meta; print(build_meta.build_wheel(sys.argv[1]))"


def files_below(folder, ending):
    return {path.relative_to(folder).as_posix() for path in folder.rglob(f"*{ending}") if path.is_file()}


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The unpacked wheel of a copy of this checkout."""
    pytest.importorskip("setuptools", minversion="77")  # what pyproject.toml asks for; detrex's environment has less
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("installed")
    for name in SOURCES:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    line = [sys.executable, "-c", BUILD, str(target)]
    done = subprocess.run(line, cwd=source, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(next(target.glob("*.whl"))) as wheel:
        wheel.extractall(target)
    return target


def test_the_wheel_holds_all_modules_and_recipes_and_no_tests(installed):
    package = installed / "dinov2_detrex"
    recipes = {f"{name}/{path}" for name in ("configs", "projects") for path in files_below(ROOT / name, ".py")}
    assert files_below(package, ".py") == files_below(ROOT / "dinov2_detrex", ".py") | recipes
    assert len(recipes) > 20 and (package / "py.typed").is_file()
    others = {path.name for path in installed.iterdir() if path.suffix not in (".whl", ".dist-info")}
    assert others == {"dinov2_detrex"}


def test_a_recipe_is_found_by_its_name_without_a_checkout(installed, python, tmp_path):
    code = "from dinov2_detrex.config.loading import find_config, load; name = 'dino_dinov2_tiny_shapes'; "
    code += "print(find_config(name)); print(load(name, ['train.seed=5']).train.seed)"
    env = {"PYTHONPATH": str(installed), "PATH": "", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([python, "-c", code], env=env, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    path, seed = done.stdout.split()
    assert Path(path).is_relative_to(installed) and seed == "5"
