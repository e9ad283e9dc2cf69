"""Packaging: dependencies from PyPI alone, and the recipes (configs/, projects/) shipped inside the wheel."""

import shutil
from pathlib import Path

from setuptools import find_namespace_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
RECIPES = ("configs", "projects")  # an installed package finds them beside its modules, a checkout at its top level


class BuildWithRecipes(build_py):
    """Copy the recipes into the package, except in editable mode, where the checkout itself is read."""

    def run(self):
        super().run()
        if self.editable_mode:
            return
        for folder in RECIPES:
            target = Path(self.build_lib) / "dinov2_detrex" / folder
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(ROOT / folder, target, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))


setup(
    packages=find_namespace_packages(include=["dinov2_detrex", "dinov2_detrex.*"]),
    cmdclass={"build_py": BuildWithRecipes},
)
