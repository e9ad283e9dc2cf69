"""The config that a run used, written down so that it can be given to --config-file again."""

import copy
from pathlib import Path
from typing import Any

from detectron2.config import LazyConfig
from omegaconf import DictConfig, OmegaConf

from dinov2_detrex.config.schema import Choice, is_section


def write_config(cfg: DictConfig, output_dir: str) -> Path:
    """Write the config as this run uses it, overrides applied and references resolved, to `config.yaml`."""
    path = Path(output_dir) / "config.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    LazyConfig.save(settled(cfg), str(path))
    return path


def settled(cfg: DictConfig, **values: Any) -> DictConfig:
    """A plain copy with references resolved.

    Args:
        cfg: stays as it is.
        values: options of `train` that the run has settled, e.g. its seed.
    """
    copied = plain(cfg)
    copied.train.update(values)
    OmegaConf.resolve(copied)
    return copied


def plain(cfg: DictConfig) -> DictConfig:
    """A copy whose typed sections are ordinary ones, which can be written and read without this package."""
    copied = copy.deepcopy(cfg)
    for name in copied:
        if is_section(OmegaConf.get_type(copied, str(name))):
            copied[name] = _as_written(OmegaConf.to_container(copied[name]))
    return copied


def _as_written(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _as_written(inner) for name, inner in value.items()}
    return value.value if isinstance(value, Choice) else value
