"""Which parameters train, at which rate and weight decay: the optimizer's groups, and a table that says it."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from tabulate import tabulate
from torch import nn

NO_WEIGHT_DECAY = ("norm", "bias", "layer_scale", "pos_embed", "token")


def kind_of_parameter(owner: nn.Module, local_name: str) -> str:
    """One of `NO_WEIGHT_DECAY` or "weight", from the module that owns the parameter and its name in there."""
    if "pos_embed" in local_name:
        return "pos_embed"
    if local_name.endswith(("_token", "_tokens")):
        return "token"
    if "norm" in type(owner).__name__.lower():
        return "norm"
    if local_name in ("gamma", "gamma_1", "gamma_2", "lambda1"):
        return "layer_scale"
    return "bias" if local_name.endswith("bias") else "weight"


def get_optimizer_params(
    model: nn.Module | None = None,
    base_lr: float | None = None,
    weight_decay: float | None = None,
    lr_factor_func: Callable[[str], float] | None = None,
    no_weight_decay: Iterable[str] = NO_WEIGHT_DECAY,
) -> list[dict[str, Any]]:
    """Parameter groups like detectron2's `get_default_optimizer_params`, which cannot tell tokens or its own LayerNorm.

    Args:
        model: the trainer sets it.
        base_lr: learning rate before the factor; needed with `lr_factor_func`.
        weight_decay: for parameters of every other kind; None leaves it to the optimizer.
        lr_factor_func: full parameter name -> factor, e.g. `BackboneLrFactor`.
        no_weight_decay: the kinds (see `kind_of_parameter`) that decay by 0.

    Returns:
        groups of the parameters that require a gradient, one for each rate and decay, in order of first appearance.

    Raises:
        ValueError: an unknown kind, a factor without a rate, no model, or nothing to train.
    """
    unknown = set(no_weight_decay) - set(NO_WEIGHT_DECAY)
    if unknown:
        raise ValueError(f"no_weight_decay {sorted(unknown)}: the kinds are {', '.join(NO_WEIGHT_DECAY)}")
    if model is None:
        raise ValueError("get_optimizer_params needs the model, which the trainer sets")
    if lr_factor_func is not None and base_lr is None:
        raise ValueError("lr_factor_func needs base_lr, the rate that it multiplies")
    groups: dict[tuple[Any, ...], dict[str, Any]] = {}
    for name, parameter, kind in _trained(model):
        settings = {}
        if base_lr is not None:
            settings["lr"] = base_lr * (lr_factor_func(name) if lr_factor_func else 1.0)
        if kind in no_weight_decay:
            settings["weight_decay"] = 0.0
        elif weight_decay is not None:
            settings["weight_decay"] = weight_decay
        group = groups.setdefault(tuple(settings.items()), {"params": [], **settings})
        group["params"].append(parameter)
    if not groups:
        raise ValueError("no parameter of the model requires a gradient; is everything frozen?")
    return list(groups.values())


def _trained(model: nn.Module) -> Iterable[tuple[str, nn.Parameter, str]]:
    """(full name, parameter, kind) of what requires a gradient; shared parameters once."""
    seen = set()
    for module_name, module in model.named_modules():
        for local_name, parameter in module.named_parameters(recurse=False):
            if parameter.requires_grad and id(parameter) not in seen:
                seen.add(id(parameter))
                full_name = f"{module_name}.{local_name}" if module_name else local_name
                yield full_name, parameter, kind_of_parameter(module, local_name)


def part_of_model(name: str) -> str:
    """The part that a parameter belongs to: the ViT, the pyramid on it, or the model's own child."""
    if "timm_model." in name:
        return name.split("timm_model.")[0] + "timm_model"
    return name.split(".")[0] + (" (pyramid)" if ".simfp_" in name else "")


def describe_param_groups(model: nn.Module, optimizer: torch.optim.Optimizer) -> str:
    """What trains, as a table to print at the start: for each part of the model, how many parameters of how many, the
    range of their learning rates, and their weight decays."""
    group_of = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    parts: dict[str, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        parts.setdefault(part_of_model(name), []).append(parameter)
    rows = [_describe_part(part, parameters, group_of) for part, parameters in parts.items()]
    total = _describe_part("total", list(model.parameters()), group_of)
    header = ("part", "trained", "of", "learning rate", "weight decay")
    return tabulate([*rows, total], header, disable_numparse=True, colalign=("left", "right", "right"))


def _describe_part(part: str, parameters: list[nn.Parameter], group_of: dict[int, dict[str, Any]]) -> tuple[str, ...]:
    trained = [p for p in parameters if p.requires_grad and id(p) in group_of]
    groups = [group_of[id(p)] for p in trained]
    return (
        part,
        f"{sum(p.numel() for p in trained):,}",
        f"{sum(p.numel() for p in parameters):,}",
        _describe_rates([group["lr"] for group in groups]),
        ", ".join(f"{decay:g}" for decay in sorted({group.get("weight_decay", 0.0) for group in groups})) or "-",
    )


def _describe_rates(rates: list[float]) -> str:
    if not rates:
        return "frozen"
    low, high = min(rates), max(rates)
    return f"{low:.3g}" if low == high else f"{low:.3g} to {high:.3g}"
