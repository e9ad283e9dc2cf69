"""detrex's shared config files by name: `get_config("common/train.py")`."""

from pathlib import Path

from detectron2.config import LazyConfig
from omegaconf import OmegaConf

from dinov2_detrex.engine import ours

CONFIG_DIR = Path(__file__).parent / "configs"


def _search_path() -> tuple[Path, Path]:
    """Files that differ from dinov2_detrex's own, then those that are the same (optimizers, COCO data)."""
    return CONFIG_DIR, ours("recipes_dir")() / "configs"


def get_config(config_path):
    """Load one of detrex's shared configs as an independent copy; an unknown path is a RuntimeError naming it."""
    for folder in _search_path():
        if (folder / config_path).is_file():
            return LazyConfig.load(str(folder / config_path))
    known = sorted({str(p.relative_to(folder)) for folder in _search_path() for p in folder.rglob("*.py")})
    raise RuntimeError(f"{config_path!r} is not among detrex's configs here; there are: {', '.join(known)}")


def try_get_key(cfg, *keys, default=None):
    """The value of the first dotted key that `cfg` has, else `default`."""
    missing = object()
    for key in keys:
        value = OmegaConf.select(cfg, key, default=missing)
        if value is not missing:
            return value
    return default
