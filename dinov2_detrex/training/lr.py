"""The learning rate of each iteration: every group's own rate x multiplier(iteration / max_iter)."""

import math

import torch
from detectron2.utils.events import get_event_storage
from fvcore.common.param_scheduler import CompositeParamScheduler, ConstantParamScheduler, CosineParamScheduler

from dinov2_detrex.config.train_options import ScaleLrOptions, ScaleRule
from dinov2_detrex.runtime.values import refused, require_share
from dinov2_detrex.training.trainer import TrainerHook

END = 1.0 - 1e-9  # schedulers are defined on [0, 1); some raise at 1


def flat_then_cosine(flat: float = 0.5, end_value: float = 0.01) -> CompositeParamScheduler:
    """A multiplier of 1 for a share of the run, then half a wave of a cosine down (RTMDet, Lyu et al. 2022).

    In a config: `lr_multiplier.scheduler = L(flat_then_cosine)()`.

    Args:
        flat: the share, 0..1, 0 and 1 not included.
        end_value: of the multiplier, from 0 to 1.

    Raises:
        UsageError: a number is out of its range.
    """
    require_share("flat_then_cosine", flat=flat, end_value=end_value)
    if flat in (0, 1):
        raise refused("flat_then_cosine", "flat", flat, "above 0 and below 1")
    parts = [ConstantParamScheduler(1.0), CosineParamScheduler(1.0, end_value)]
    return CompositeParamScheduler(parts, [flat, 1 - flat], ["rescaled", "rescaled"])


class LearningRate(TrainerHook):
    """Sets the rates before each step, from the iteration alone, so that a resumed run needs no scheduler state.

    Args:
        optimizer: its groups' present rates are the base rates.
        multiplier: progress in [0, 1) -> factor, e.g. a fvcore `ParamScheduler`.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, multiplier):
        self.optimizer, self.multiplier = optimizer, multiplier
        self.base_lrs = [group["lr"] for group in optimizer.param_groups]

    def before_step(self):
        factor = self.multiplier(min(self.trainer.iter / self.trainer.max_iter, END))
        for group, base_lr in zip(self.optimizer.param_groups, self.base_lrs):
            group["lr"] = base_lr * factor

    def after_step(self):
        largest = max(self.optimizer.param_groups, key=lambda group: sum(p.numel() for p in group["params"]))
        get_event_storage().put_scalar("lr", largest["lr"], smoothing_hint=False)


def scale_learning_rates(optimizer: torch.optim.Optimizer, batch_size: int, options: ScaleLrOptions) -> float:
    """Multiply every group's rate by batch / reference (linear, Goyal et al. 2017) or by its root (sqrt).

    Returns:
        the factor; 1.0 where `reference_batch_size` is 0.
    """
    ratio = batch_size / options.reference_batch_size if options.reference_batch_size else 1.0
    factor = math.sqrt(ratio) if options.rule == ScaleRule.sqrt else ratio
    for group in optimizer.param_groups:
        group["lr"] *= factor
    return factor


def describe_groups(optimizer, model: torch.nn.Module) -> str:
    """One line per learning rate and weight decay: how many parameters train with them, and how many are frozen."""
    rates: dict[tuple, int] = {}
    for group in optimizer.param_groups:
        key = (group["lr"], group.get("weight_decay", 0.0))
        rates[key] = rates.get(key, 0) + sum(p.numel() for p in group["params"])
    frozen = sum(p.numel() for p in model.parameters() if not p.requires_grad)
    lines = [f"parameters: {sum(rates.values()):,} train, {frozen:,} frozen"]
    lines += [f"  {n:>13,} at lr {lr:.3g}, weight decay {decay:.3g}" for (lr, decay), n in sorted(rates.items())]
    return "\n".join(lines)
