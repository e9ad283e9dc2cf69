"""Is what a checkpoint holds the state of this config's run? Asked before anything is written to the run's folder."""

import copy
import logging
from dataclasses import asdict, dataclass
from typing import Any

import torch
from detectron2.utils import comm
from omegaconf import DictConfig

from dinov2_detrex.config.train_options import TrainOptions
from dinov2_detrex.runtime.errors import UserError

logger = logging.getLogger(__name__)

_ANEW = "start anew from its weights with train.init_checkpoint=FILE and another train.output_dir"


def check_progress(saved: dict[str, Any], options: TrainOptions) -> None:
    """Compare what needs no model.

    Raises:
        UserError: more iterations are done than the run is to have, or an average is asked for that was not kept.
    """
    done = saved["iteration"] + 1
    if done > options.max_iter:
        raise UserError(
            f"the checkpoint to resume from has {done} iterations behind it, train.max_iter={options.max_iter} asks "
            f"for fewer; set train.max_iter={done} or more, or {_ANEW}"
        )
    if options.model_ema.enabled and "ema_state" not in saved:
        raise UserError(
            "train.model_ema is on, but the checkpoint to resume from holds no ema_state; "
            f"set train.model_ema.enabled=false, or {_ANEW}"
        )


@dataclass(frozen=True)
class Batches:
    """What the images of an iteration depend on, beside the seed: a run continues exactly with the same alone."""

    total_batch_size: int | None
    accumulate_steps: int
    processes: int
    repeat_thresh: float | None = None
    repeat_power: float = 0.5

    @classmethod
    def of(cls, cfg_loader: DictConfig, options: TrainOptions) -> "Batches":
        """Those of a config's `dataloader.train`, in this run's processes."""
        processes, single = comm.get_world_size(), cfg_loader.get("single_gpu_batch_size")
        total = single * processes if single else cfg_loader.get("total_batch_size")
        thresh = cfg_loader.get("repeat_thresh") or None
        power = cfg_loader.get("repeat_power", 0.5) if thresh else 0.5  # of no effect without
        return cls(total, options.accumulate.steps, processes, thresh, power)


_KEYS = {
    "total_batch_size": "dataloader.train.total_batch_size",
    "accumulate_steps": "train.accumulate.steps",
    "repeat_thresh": "dataloader.train.repeat_thresh",
    "repeat_power": "dataloader.train.repeat_power",
    "processes": "processes (--num-gpus x --num-machines)",
}


def compare_batches(saved: dict[str, Any], batches: Batches) -> None:
    """Warn in one line where the run goes on with other batches than it had; checkpoints of earlier versions say none.

    Args:
        saved: the checkpoint.
        batches: of the run that continues it.
    """
    before = saved.get("batches") or {}
    changed = [
        (_KEYS[name], before[name], now) for name, now in asdict(batches).items() if before.get(name, now) != now
    ]
    if changed:
        logger.warning(
            "--resume with other batches than before: %s; the run goes on, but not as it would have without a stop",
            ", ".join(f"{key} was {old}, is {new}" for key, old, new in changed),
        )


def check_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Compare the saved state of an optimizer with the one that is to go on with it, which stays as it is.

    Raises:
        UserError: the state is of another kind of optimizer, or of other parameter groups; names what differs.
    """
    name, saved = type(optimizer).__name__, state["param_groups"]
    sizes = [len(group["params"]) for group in optimizer.param_groups]
    saved_sizes = [len(group["params"]) for group in saved]
    if sizes != saved_sizes:
        raise UserError(
            f"the checkpoint's optimizer has {len(saved)} parameter groups of {_shown(saved_sizes)} parameters, this "
            f"config's has {len(sizes)} of {_shown(sizes)}; use the run's own config.yaml, or {_ANEW}"
        )
    trial = copy.copy(optimizer)  # torch fills in what an earlier version of the same optimizer did not save
    trial.load_state_dict({"state": {}, "param_groups": saved})
    lacking = sorted(optimizer.defaults.keys() - set.intersection(*(set(group) for group in trial.param_groups)))
    if lacking:
        raise UserError(
            f"the checkpoint's optimizer state is of another optimizer than {name}, it has no {', '.join(lacking)}; "
            f"use the run's own config.yaml, or {_ANEW}"
        )


def _shown(sizes: list[int], most: int = 5) -> str:
    return ", ".join(map(str, sizes[:most])) + (", ..." if len(sizes) > most else "")
