"""Is what a checkpoint holds the state of this config's run? Asked before anything is written to the run's folder."""

import copy
from typing import Any

import torch

from dinov2_detrex.config.train_options import TrainOptions
from dinov2_detrex.runtime.errors import UserError

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
