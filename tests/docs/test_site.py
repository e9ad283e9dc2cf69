"""The site builds without a warning: every link inside it leads somewhere, every docstring can be read."""

import shutil
import subprocess

import pytest
from fences import DOCS, ROOT

pytestmark = pytest.mark.slow


def build(python, python_env, docs, target):
    for package in ("sphinx", "myst_parser", "furo"):
        pytest.importorskip(package, reason="the extra `docs` is not installed")
    command = [python, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", str(docs), str(target)]
    return subprocess.run(command, env=python_env, capture_output=True, text=True, timeout=900)


@pytest.fixture
def docs(tmp_path):
    """A copy of the folder, beside what its pages take from outside of it."""
    for name in ("benchmarks", "examples"):
        shutil.copytree(ROOT / name, tmp_path / name)
    return shutil.copytree(DOCS, tmp_path / "docs", ignore=shutil.ignore_patterns("_build", "__pycache__"))


def test_the_site_builds_without_warnings(python, python_env, docs, tmp_path):
    done = build(python, python_env, docs, tmp_path / "html")
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "html" / "reference" / "config.html").is_file()


def test_a_link_that_leads_nowhere_is_a_warning(python, python_env, docs, tmp_path):
    page = docs / "install.md"
    page.write_text(page.read_text() + "\n[gone](how_to/data.md#no-such-heading)\n")
    done = build(python, python_env, docs, tmp_path / "html")
    assert done.returncode != 0 and "no-such-heading" in done.stderr
