"""Which hyper-parameters does each parameter of a model get from the optimizer?"""

import logging
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from torch import nn

NORM_MODULES = (
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.BatchNorm3d,
    nn.SyncBatchNorm,
    nn.GroupNorm,
    nn.InstanceNorm1d,
    nn.InstanceNorm2d,
    nn.InstanceNorm3d,
    nn.LayerNorm,
    nn.LocalResponseNorm,
)


def get_default_optimizer_params(
    model: nn.Module,
    base_lr: float | None = None,
    weight_decay: float | None = None,
    weight_decay_norm: float | None = None,
    bias_lr_factor: float | None = 1.0,
    weight_decay_bias: float | None = None,
    lr_factor_func: Callable[[str], float] | None = None,
    overrides: dict[str, dict[str, float]] | None = None,
) -> list[dict[str, Any]]:
    """Parameter groups for a torch optimizer; parameters with equal hyper-parameters share a group.

    Args:
        model: its parameters that require gradients are taken, each once, under its first name.
        base_lr, weight_decay: for every parameter; None leaves them to the optimizer.
        weight_decay_norm: instead, for parameters of torch's norm modules.
        bias_lr_factor, weight_decay_bias: for parameters called "bias".
        lr_factor_func: factor on `base_lr` by full name ("backbone.net.blocks.0.attn.qkv.weight").
        overrides: {last part of a name: {hyper-parameter: value}}, applied last.

    Returns:
        groups in order of first appearance, each with `params` and the hyper-parameters that were set.

    Raises:
        ValueError: a factor without `base_lr`, "bias" given twice, or no parameter requires gradients.
    """
    overrides = _with_bias(dict(overrides or {}), base_lr, bias_lr_factor, weight_decay_bias)
    if lr_factor_func is not None and base_lr is None:
        raise ValueError("lr_factor_func needs base_lr")
    groups, last_names = [], set()
    for module, full_name, parameter in _trainable_parameters(model):
        last_names.add(full_name.rpartition(".")[2])
        group = {"lr": base_lr, "weight_decay": weight_decay}
        if isinstance(module, NORM_MODULES) and weight_decay_norm is not None:
            group["weight_decay"] = weight_decay_norm
        if lr_factor_func is not None and base_lr is not None:  # without base_lr it was refused above
            group["lr"] = base_lr * lr_factor_func(full_name)
        group.update(overrides.get(full_name.rpartition(".")[2], {}))
        groups.append({"params": [parameter], **{k: v for k, v in group.items() if v is not None}})
    _check_use(groups, sorted(set(overrides) - last_names - {"bias"}))
    return reduce_param_groups(groups)


def reduce_param_groups(params: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Merge groups whose hyper-parameters are equal, in order of first appearance."""
    merged: dict[tuple, dict[str, Any]] = {}
    for group in params:
        hyper = {k: v for k, v in group.items() if k != "params"}
        same = merged.setdefault(tuple(sorted(hyper.items())), {**hyper, "params": []})
        same["params"].extend(group["params"])
    return list(merged.values())


def _with_bias(overrides: dict, base_lr: float | None, factor: float | None, weight_decay: float | None) -> dict:
    bias = {}
    if factor is not None and factor != 1.0:
        if base_lr is None:
            raise ValueError(f"bias_lr_factor={factor} needs base_lr")
        bias["lr"] = base_lr * factor
    if weight_decay is not None:
        bias["weight_decay"] = weight_decay
    if bias and "bias" in overrides:
        raise ValueError(f"overrides has 'bias', and so have bias_lr_factor or weight_decay_bias: {bias}")
    return {**overrides, "bias": bias} if bias else overrides


def _trainable_parameters(model: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Parameter]]:
    """(owning module, full name, parameter); a parameter of the model itself is called ".name"."""
    seen = set()
    for module_name, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.requires_grad and parameter not in seen:
                seen.add(parameter)
                yield module, f"{module_name}.{name}", parameter


def _check_use(groups: list[dict], unused: list[str]) -> None:
    if not groups:
        raise ValueError("optimizer got an empty parameter list: no parameter of the model requires gradients")
    if unused:
        logging.getLogger(__name__).warning("overrides match no parameter: %s", ", ".join(unused))
