"""The optimizer that a config describes, built for one model, and what is done to gradients before it steps."""

import copy
from collections.abc import Callable, Iterable

import torch
from detectron2.config import instantiate
from omegaconf import DictConfig, open_dict
from torch import nn

from dinov2_detrex.backbone.param_groups import part_of_model
from dinov2_detrex.config.train_options import ClipGradOptions
from dinov2_detrex.training.parallel import full_tensor


def build_optimizer(node: DictConfig, model: nn.Module) -> torch.optim.Optimizer:
    """Build `node`, a LazyCall whose `params` is one as well, with `params.model` set to the model.

    Args:
        node: a config's `optimizer`; it stays as it is, and may refer to other parts of its config.
        model: the bare model, or the sharded one.

    Raises:
        TypeError: `node` describes something else.
    """
    own = copy.deepcopy(node)  # the copy has the same parent, so that references go on leading out of it
    with open_dict(own):
        own.params.model = model
    optimizer = instantiate(own)
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise TypeError(f"a {type(optimizer).__name__} is no optimizer of torch")
    return optimizer


Clip = Callable[[Iterable[nn.Parameter]], torch.Tensor]


def gradient_clipping(options: ClipGradOptions, model: nn.Module | None = None) -> Clip | None:
    """What clips the gradients of parameters in place and returns their norm, a scalar; None where it is off.

    Args:
        options: a run's.
        model: whose parts are clipped each by itself, with `by_part`.
    """
    if not options.enabled:
        return None
    params = options.params

    def clip(parameters: Iterable[nn.Parameter]) -> torch.Tensor:
        return nn.utils.clip_grad_norm_(parameters, params.max_norm, norm_type=params.norm_type)

    if not options.by_part or model is None:
        return clip
    names = {id(parameter): name.removeprefix("module.") for name, parameter in model.named_parameters()}  # of DDP
    part_of = {key: part_of_model(name) for key, name in names.items()}
    return lambda parameters: _clip_parts(parameters, part_of, clip, params.norm_type)


def _clip_parts(
    parameters: Iterable[nn.Parameter], part_of: dict[int, str], clip: Clip, norm_type: float
) -> torch.Tensor:
    """Clip every part by itself; the norm of all before that."""
    parts: dict[str, list[nn.Parameter]] = {}
    for parameter in parameters:
        parts.setdefault(part_of[id(parameter)], []).append(parameter)
    return torch.linalg.vector_norm(torch.stack([full_tensor(clip(part)) for part in parts.values()]), norm_type)
