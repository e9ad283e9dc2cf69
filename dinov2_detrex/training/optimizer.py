"""The optimizer that a config describes, built for one model, and what is done to gradients before it steps."""

import copy
from collections.abc import Callable, Iterable

import torch
from detectron2.config import instantiate
from omegaconf import DictConfig, open_dict
from torch import nn

from dinov2_detrex.config.train_options import ClipGradOptions


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


def gradient_clipping(options: ClipGradOptions) -> Callable[[Iterable[nn.Parameter]], torch.Tensor] | None:
    """What clips the gradients of parameters in place and returns their norm, a scalar; None where it is off."""
    if not options.enabled:
        return None
    params = options.params
    return lambda parameters: nn.utils.clip_grad_norm_(parameters, params.max_norm, norm_type=params.norm_type)
