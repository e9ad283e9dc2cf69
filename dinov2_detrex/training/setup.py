"""What happens before a model is built: the config is completed, loggers are set up, the config is written down."""

import copy
import logging
import sys
from pathlib import Path

import torch
from detectron2.config import LazyConfig
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from dinov2_detrex.config import get_config, recipes_dir
from dinov2_detrex.data.loader import name_own_loader
from dinov2_detrex.env import describe
from dinov2_detrex.runtime.errors import UsageError, UserError, nearest_names

logger = logging.getLogger(__name__)

LOGGERS = ["dinov2_detrex", "detectron2", "detrex", "fvcore"]
REQUIRED = ("model", "dataloader", "optimizer", "lr_multiplier", "train")
FAST_DEV_RUN = {"max_iter": 20, "eval_period": 10, "log_period": 1}


def find_config(name: str) -> Path:
    """The config file: a path as given, or one below the folder of the recipes (so that a wheel has them too).

    Raises:
        UsageError: there is none; the message lists near ones.
    """
    if not name:
        raise UsageError("no config file was given: --config-file FILE")
    for path in (Path(name), recipes_dir() / name):
        if path.is_file():
            return path
    recipes = {path.stem: str(path.relative_to(recipes_dir())) for path in _recipes()}
    files = [recipes[stem] for stem in nearest_names(Path(name).stem, list(recipes))]
    hint = f"did you mean {' or '.join(files)}?" if files else f"the recipes are in {recipes_dir()}"
    raise UsageError(f"config file {name!r} does not exist; {hint}")


def _recipes() -> list[Path]:
    return sorted(p for folder in ("configs", "projects") for p in (recipes_dir() / folder).rglob("*.py"))


def load_config(path: Path) -> DictConfig:
    """Load a training config; keys that its `train` section lacks come from configs/common/train.py.

    detectron2's training loader becomes this project's, whose order is resumed.

    Raises:
        UsageError: it is no training config.
    """
    try:
        cfg = LazyConfig.load(str(path))
    except Exception as error:  # a config is a program of the user's, or YAML
        cause = " ".join(f"{type(error).__name__}: {error}".split())
        raise UsageError(f"config file {path} cannot be loaded: {cause} (--debug shows where)") from error
    missing = [name for name in REQUIRED if name not in cfg]
    if missing:
        raise UsageError(f"config file {path} is no training config: it defines no {', '.join(missing)}")
    cfg.train = OmegaConf.merge(get_config("common/train.py").train, cfg.train)
    if "train" in cfg.dataloader:
        name_own_loader(cfg.dataloader.train)
    return cfg


def check_references(cfg: DictConfig) -> None:
    """Follow every interpolation once, so that a value which another one cannot be computed from is found at once.

    Raises:
        UsageError: naming the value that has none.
    """
    try:
        OmegaConf.to_container(cfg, resolve=True)
    except OmegaConfBaseException as error:
        key = f"{error.full_key}: " if error.full_key else ""
        raise UsageError(f"the config does not fit together: {key}{str(error).splitlines()[0]}") from error


def apply_fast_dev_run(cfg: DictConfig) -> None:
    """With `train.fast_dev_run.enabled`: a run of a minute that passes through everything."""
    if cfg.train.fast_dev_run.enabled:
        for name, value in FAST_DEV_RUN.items():
            cfg.train[name] = value


def set_up_loggers(output_dir: str) -> None:
    """Console and `log.txt` for this project, both engines and fvcore.

    Raises:
        UserError: the folder cannot be made or written to.
    """
    try:
        Path(output_dir).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"train.output_dir={output_dir} cannot be made: {error.strerror}") from error
    for name in LOGGERS:
        setup_logger(output_dir, comm.get_rank(), name=name)


def log_start(config_file: str) -> None:
    """What runs here, and what was asked for."""
    logger.info("process %d of %d", comm.get_rank(), comm.get_world_size())
    logger.info("environment:\n%s", "\n".join(f"  {name:<14} {value}" for name, value in describe()))
    logger.info("command line: %s", " ".join(sys.argv))
    logger.info("config file: %s", config_file)


def write_config(cfg: DictConfig, output_dir: str) -> Path:
    """Write the config as this run uses it, overrides applied and references resolved, to `config.yaml`.

    The file can be given to --config-file.
    """
    path = Path(output_dir) / "config.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    resolved = copy.deepcopy(cfg)
    OmegaConf.resolve(resolved)
    LazyConfig.save(resolved, str(path))
    return path


def set_numerics(train: DictConfig) -> None:
    """Speed against repeatability, as the `train` section asks."""
    torch.backends.cudnn.benchmark = bool(train.cudnn_benchmark) and not train.deterministic
    torch.use_deterministic_algorithms(bool(train.deterministic), warn_only=True)
    if train.float32_precision:
        torch.set_float32_matmul_precision(train.float32_precision)
        torch.backends.cudnn.allow_tf32 = train.float32_precision != "highest"
