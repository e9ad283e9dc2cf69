"""Where do the recipes and the configs that they share lie, and what are the recipes' names?

`get_config("common/train.py")` loads a shared config.
"""

import os
from pathlib import Path

from omegaconf import DictConfig

PACKAGE_DIR = Path(__file__).parents[1]


def recipes_dir() -> Path:
    """The folder that holds `configs/` and `projects/`: the package itself when installed, else the checkout."""
    return PACKAGE_DIR if (PACKAGE_DIR / "configs").is_dir() else PACKAGE_DIR.parent


def named_recipes() -> dict[str, Path]:
    """{name: file} of all recipes: what lies in the folders of `projects/*/configs` but the parts in `models`."""
    files = (recipes_dir() / "projects").glob("*/configs/*/*.py")
    return {path.stem: path for path in sorted(files) if path.parent.name != "models"}


def get_config(config_path: str | os.PathLike) -> DictConfig:
    """Load a shared config, e.g. "common/train.py", as an independent copy.

    Args:
        config_path: path below `configs/`.

    Returns:
        an omegaconf `DictConfig` of the file's public config objects.

    Raises:
        RuntimeError: there is no such file; the message lists the ones there are.
    """
    from detectron2.config import LazyConfig  # here, because configs and models may import this module

    root = recipes_dir() / "configs"
    path = root / config_path
    if not path.is_file():
        known = ", ".join(sorted(str(p.relative_to(root)) for p in root.rglob("*.py")))
        raise RuntimeError(f"{os.fspath(config_path)!r} is not a config of dinov2_detrex; there are: {known}")
    return LazyConfig.load(str(path))
