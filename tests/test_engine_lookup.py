"""Which package serves detectron2 and detrex: an installed one wins, each for itself."""

import shutil
import subprocess

import pytest

from dinov2_detrex.engine import FALLBACK_DIR


def _env_rows(python, env):
    run = subprocess.run([python, "-m", "dinov2_detrex.env"], env=env, capture_output=True, text=True, check=True)
    return dict(line.split(maxsplit=1) for line in run.stdout.splitlines())


def _install(package, site, version):
    """A package of that name, as an installation would put it; it is the fallback's code under another version."""
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(FALLBACK_DIR / package, site / package, ignore=ignore)
    init = site / package / "__init__.py"
    init.write_text(init.read_text() + f'\n__version__ = "{version}"\n')


@pytest.mark.fallback("detectron2", "detrex")
def test_the_fallback_serves_both_where_nothing_is_installed(python, python_env):
    rows = _env_rows(python, python_env)
    assert rows["detectron2"].startswith("fallback") and rows["detrex"].startswith("fallback")
    assert rows["dinov2_detrex"] and rows["torch"] and rows["devices"]


@pytest.mark.fallback("detectron2", "detrex")
@pytest.mark.parametrize("installed, other", [("detectron2", "detrex"), ("detrex", "detectron2")])
def test_an_installed_package_wins_for_itself_alone(python, python_env, tmp_path, installed, other):
    _install(installed, tmp_path, "9.9.9")
    env = {**python_env, "PYTHONPATH": f"{python_env['PYTHONPATH']}:{tmp_path}"}
    rows = _env_rows(python, env)
    assert rows[installed].startswith("installed 9.9.9") and str(tmp_path) in rows[installed]
    assert rows[other].startswith("fallback")


@pytest.mark.fallback("detectron2", "detrex")
@pytest.mark.parametrize("installed", ["detectron2", "detrex"])
def test_the_recipe_dumps_to_the_same_yaml_in_mixed_states(python, python_env, tmp_path, installed):
    dump = (
        "import sys, dinov2_detrex; from detectron2.config import LazyConfig;"
        "LazyConfig.save(LazyConfig.load(sys.argv[1]), sys.argv[2])"
    )
    recipe = str(FALLBACK_DIR.parents[1] / "projects/dino_dinov2/configs/COCO/dino_dinov2_b_12ep.py")
    _install(installed, tmp_path / "site", "9.9.9")
    mixed = {**python_env, "PYTHONPATH": f"{python_env['PYTHONPATH']}:{tmp_path / 'site'}"}
    for name, env in (("fallback", python_env), ("mixed", mixed)):
        subprocess.run([python, "-c", dump, recipe, str(tmp_path / f"{name}.yaml")], env=env, check=True)
    assert (tmp_path / "mixed.yaml").read_text() == (tmp_path / "fallback.yaml").read_text()


@pytest.mark.fallback("detectron2")
def test_a_broken_installed_engine_is_reported_not_hidden(python, python_env, tmp_path):
    (tmp_path / "detectron2").mkdir()
    (tmp_path / "detectron2" / "__init__.py").write_text("raise OSError('built for another torch')")
    env = {**python_env, "PYTHONPATH": f"{python_env['PYTHONPATH']}:{tmp_path}"}
    assert "built for another torch" in _env_rows(python, env)["detectron2"]
