"""The learning rate of each iteration: every group's own rate x multiplier(iteration / max_iter)."""

import math

import torch
from detectron2.engine import HookBase

from dinov2_detrex.runtime.errors import UsageError

END = 1.0 - 1e-9  # schedulers are defined on [0, 1); some raise at 1


class LearningRate(HookBase):
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
        self.trainer.storage.put_scalar("lr", largest["lr"], smoothing_hint=False)


def scale_learning_rates(optimizer, batch_size: int, reference_batch_size: int, rule: str = "linear") -> float:
    """Multiply every group's rate by batch / reference ("linear", Goyal et al. 2017) or its root ("sqrt").

    Returns:
        the factor; 1.0 where `reference_batch_size` is 0.

    Raises:
        UsageError: unknown rule.
    """
    rules = {"linear": lambda ratio: ratio, "sqrt": math.sqrt}
    if rule not in rules:
        raise UsageError(f"train.scale_lr.rule={rule} is not one of {', '.join(rules)}")
    factor = rules[rule](batch_size / reference_batch_size) if reference_batch_size else 1.0
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
