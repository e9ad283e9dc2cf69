"""From a config file and overrides to one complete, checked config; and from that to the values of a run."""

import logging
import traceback
from pathlib import Path
from typing import Any

from detectron2.config import LazyConfig
from omegaconf import DictConfig, OmegaConf

from dinov2_detrex.config.arguments import check_arguments
from dinov2_detrex.config.overrides import apply_overrides
from dinov2_detrex.config.packaged import read_packaged
from dinov2_detrex.config.recipes import named_recipes, recipes_dir
from dinov2_detrex.config.refusals import SECTIONS, refused
from dinov2_detrex.config.schema import Section, completed, is_section, refused_value, taken
from dinov2_detrex.config.train_options import TrainOptions
from dinov2_detrex.config.yaml_files import check_yaml
from dinov2_detrex.data.loader import name_own_loader
from dinov2_detrex.data.source import each_read_once
from dinov2_detrex.runtime.errors import UsageError, nearest_names
from dinov2_detrex.runtime.packages import CONFIG, is_package

logger = logging.getLogger(__name__)

REQUIRED = ("model", "dataloader", "optimizer", "lr_multiplier", "train")
ONLY_DETREX = ("lr_backbone_names", "lr_linear_proj_names")  # of some of its recipes' `train`, which a run never reads
FAST_DEV_RUN = {"max_iter": 20, "eval_period": 10, "log_period": 1}


@each_read_once()
def load(config_file: str, overrides: list[str]) -> DictConfig:
    """The config that a command line describes, with `train` (and `schedule`) as typed sections.

    Raises:
        UsageError: one line that names the file, key or override, and what is wrong with it.
        UserError: what a resolver of the recipe says of the data.
    """
    cfg = load_config(find_config(config_file))
    apply_overrides(cfg, overrides)
    _check_sections(cfg, "the overrides leave a config that is none for training")
    with refused("the config does not fit together: "):
        apply_fast_dev_run(cfg)
    check_arguments(cfg, resolve=False)  # before what follows from them
    train_options(cfg)
    with refused("the config does not fit together: "):
        OmegaConf.to_container(cfg, resolve=True)  # follows every interpolation once
    check_arguments(cfg)
    return cfg


def find_config(name: str) -> Path:
    """The config file: a path as given, or one below the folder of the recipes (so that a wheel has them too); the
    config of a run's folder or a model package; or the recipe of that name, e.g. "dino_dinov2_tiny_shapes".

    Raises:
        UsageError: there is none; the message lists near ones.
    """
    if not name:
        raise UsageError("no config file was given: --config-file FILE")
    for path in (Path(name), Path(name) / CONFIG, recipes_dir() / name):
        if path.is_file():
            return path
    if Path(name).is_dir():
        raise UsageError(
            f"config file {name!r} is a folder; name a recipe, a run's folder or a file (.py, config.yaml)"
        )
    recipes = named_recipes()
    if name in recipes:
        return recipes[name]
    near = nearest_names(Path(name).stem, recipes)
    files = [str(recipes[stem].relative_to(recipes_dir())) for stem in near]
    hint = f"did you mean {' or '.join(files)}?" if files else f"the recipes are in {recipes_dir()}"
    raise UsageError(f"config file {name!r} does not exist; {hint}")


def load_config(path: Path) -> DictConfig:
    """Load a training config; options that its `train` section lacks come from `TrainOptions`.

    The config of a model package is read as data (`packaged`). detectron2's training loader becomes this project's,
    whose order is resumed.

    Raises:
        UsageError: it cannot be loaded, is no training config, or sets what its sections do not take.
    """
    cfg = read_packaged(path) if is_package(path.parent) else _executed(path)
    _check_sections(cfg, f"config file {path} is no training config")
    _drop_what_only_detrex_has(cfg.train)
    with refused(f"config file {path}: "):
        for name, section in _sections_of(cfg).items():
            cfg[name] = completed(section, cfg[name], name)
    if isinstance(cfg.dataloader.get("train"), DictConfig):
        name_own_loader(cfg.dataloader.train)
    return cfg


def _executed(path: Path) -> DictConfig:
    """The content of a config that its user trusts."""
    try:
        if path.suffix in (".yaml", ".yml"):
            check_yaml(path)
        with refused():
            return LazyConfig.load(str(path))
    except (Exception, SystemExit) as error:  # a config is a program of the user's, or YAML
        origin = error.__cause__ or error if isinstance(error, UsageError) else error
        kind = "" if isinstance(error, UsageError) else f"{type(error).__name__}: "
        cause = " ".join(f"{_line_of_recipe(origin)}{kind}{error}{_statement_of_a_missing_name(origin)}".split())
        raise UsageError(f"config file {path} cannot be loaded: {cause} (--debug shows where)") from error


def _line_of_recipe(error: BaseException) -> str:
    """ "FILE:LINE: " of the statement, outside of functions, that was being executed; "" where there was none."""
    frames = _statements(error)
    return f"{frames[-1].filename}:{frames[-1].lineno}: " if frames else ""


def _statement_of_a_missing_name(error: BaseException) -> str:
    """That statement for a KeyError, whose message is a name alone: detectron2 raises it for a relative import."""
    frames = _statements(error)
    return f" is missing in `{frames[-1].line}`" if isinstance(error, KeyError) and frames else ""


def _statements(error: BaseException) -> list[traceback.FrameSummary]:
    return [frame for frame in traceback.extract_tb(error.__traceback__) if frame.name == "<module>"]


def _check_sections(cfg: DictConfig, otherwise: str) -> None:
    missing = [name for name in REQUIRED if name not in cfg]
    if missing:
        raise UsageError(f"{otherwise}: it defines no {', '.join(missing)}")
    for name in REQUIRED:
        if not isinstance(cfg[name], DictConfig):
            raise UsageError(f"{otherwise}: {refused_value(name, cfg[name], 'a section')}")


def _sections_of(cfg: DictConfig) -> dict[str, type[Section]]:
    """`train`, and a `schedule` with the option that only this project's has; any other is its owner's."""
    own_schedule = isinstance(cfg.get("schedule"), DictConfig) and "images_per_epoch" in cfg.schedule
    return {name: section for name, section in SECTIONS.items() if name == "train" or own_schedule}


def _drop_what_only_detrex_has(train: DictConfig) -> None:
    for name in ONLY_DETREX:
        if name in train:
            logger.warning("train.%s is not used", name)
            train.pop(name)


def apply_fast_dev_run(cfg: DictConfig) -> None:
    """With `train.fast_dev_run.enabled`: a run of a minute that passes through everything."""
    if cfg.train.fast_dev_run.enabled:
        for name, value in FAST_DEV_RUN.items():
            cfg.train[name] = value


def train_options(cfg: DictConfig) -> TrainOptions:
    """The values of a config's `train`, which may be plain and lack options; `schedule` is checked with it.

    Raises:
        UsageError: one line with the key, the value and what is allowed.
    """
    values = {}
    with refused():
        for name, section in _sections_of(cfg).items():
            own: Any = OmegaConf.get_type(cfg[name])  # a recipe may derive its own options
            resolved = OmegaConf.to_container(cfg[name], resolve=True)
            values[name] = taken(completed(own if is_section(own) else section, resolved, name), name)
    return values["train"]
