"""How a model is spread over the processes of a run: not at all, DDP, or FSDP2 for models that do not fit.

FSDP2 (torch's `fully_shard`) keeps a shard of every parameter, gradient and optimizer state on each process and gathers
the parameters of one block at a time. Checkpoints hold whole tensors in every case, so a run may be resumed either way.
"""

import contextlib
from collections.abc import Callable
from inspect import signature
from typing import Any

import torch
from detectron2.utils import comm
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from dinov2_detrex.config.train_options import DdpOptions, FsdpOptions
from dinov2_detrex.runtime.errors import UsageError


def is_sharded(options: FsdpOptions) -> bool:
    """True if the run is to use FSDP2: asked for, and more than one process."""
    return options.enabled and comm.get_world_size() > 1


def wrap(model: nn.Module, ddp: DdpOptions, fsdp: FsdpOptions, device: torch.device) -> nn.Module:
    """The model as the training step calls it; alone, the model itself. Optimizers are built afterwards."""
    if comm.get_world_size() == 1:
        return model
    if is_sharded(fsdp):
        return shard(model, fsdp.modules, device)
    renamed = "forward_sync_buffers" in signature(DistributedDataParallel).parameters  # since torch 2.13
    options: dict[str, Any] = {
        "forward_sync_buffers" if renamed else "broadcast_buffers": ddp.broadcast_buffers,
        "find_unused_parameters": ddp.find_unused_parameters,
    }
    wrapped = DistributedDataParallel(model, device_ids=[device.index] if device.type == "cuda" else None, **options)
    if ddp.fp16_compression:
        wrapped.register_comm_hook(state=None, hook=default_hooks.fp16_compress_hook)
    return wrapped


def has_fsdp2() -> bool:
    """Whether this torch shards as `train.fsdp` needs it: from 2.8 on."""
    return hasattr(FSDPModule, "set_reshard_after_forward")


def shard(model: nn.Module, names: list[str], device: torch.device) -> nn.Module:
    """Shard `model` in place: the members of containers with these (ends of) names one by one, then the rest.

    Raises:
        UsageError: this torch has no FSDP2, or no container has such a name.
    """
    if not has_fsdp2():
        raise UsageError(f"train.fsdp needs torch 2.8 or later, this is {torch.__version__}")
    mesh = init_device_mesh(device.type, (comm.get_world_size(),))
    members = [member for member in _members(model, names) if any(True for _ in member.parameters())]
    if not members:
        raise UsageError(f"train.fsdp.modules={list(names)}: the model has no container of one of these names")
    for member in members:
        fully_shard(member, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model


def _members(model: nn.Module, names: list[str]) -> list[nn.Module]:
    """What the containers hold whose dotted names end with one of `names`; not what is inside another such member."""
    chosen: dict[str, nn.Module] = {}
    for name, module in model.named_modules():
        inside = any(name == other or name.startswith(other + ".") for other in chosen)
        if not inside and any(f".{name}".endswith("." + ending) for ending in names):
            chosen |= {f"{name}.{child}": member for child, member in module.named_children()}
    return list(chosen.values())


@contextlib.contextmanager
def gradient_sync(model: Any, on: bool):
    """Whether the backward passes inside exchange gradients; only the last of an iteration has to.

    Args:
        model: as `wrap` made it.
    """
    if hasattr(model, "set_requires_gradient_sync"):
        model.set_requires_gradient_sync(on)
        yield
    elif hasattr(model, "no_sync") and not on:
        with model.no_sync():
            yield
    else:
        yield


@contextlib.contextmanager
def unsharded(model: nn.Module):
    """Inside, every process holds all parameters, so that each may run the model as often as it likes."""
    sharded: list[Any] = [module for module in model.modules() if hasattr(module, "unshard")]
    for module in sharded:
        module.set_reshard_after_forward(False, recurse=False)
        module.unshard()
    try:
        yield
    finally:
        for module in sharded:
            module.reshard()
            module.set_reshard_after_forward(module is not model, recurse=False)


def full_tensor(value: torch.Tensor) -> torch.Tensor:
    """A tensor that may be sharded -> the whole one, on the CPU if it was. All processes must ask together."""
    return whole(value).cpu() if isinstance(value, DTensor) else value


def whole(value: torch.Tensor) -> torch.Tensor:
    """`full_tensor` that stays on its device."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def local_shard(value: torch.Tensor) -> torch.Tensor:
    """What this process holds of a tensor, sharing its memory; all of it where it is not sharded."""
    return value.to_local() if isinstance(value, DTensor) else value


def distribute_like(value: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """A whole tensor, spread over the processes as `target` is."""
    if not isinstance(target, DTensor) or value.shape != target.shape:
        return value
    return distribute_tensor(value.to(target.device), target.device_mesh, target.placements)


def full_state(state: dict) -> dict:
    """`full_tensor` for every tensor in nested dictionaries and lists."""
    return _mapped(state, full_tensor)


def _mapped(state: Any, function: Callable) -> Any:
    if isinstance(state, dict):
        return {name: _mapped(value, function) for name, value in state.items()}
    if isinstance(state, list):
        return [_mapped(value, function) for value in state]
    return function(state) if isinstance(state, torch.Tensor) else state


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict) -> None:
    """Load a state of whole tensors into an optimizer whose parameters may be sharded."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]

    def distributed(slot: dict, parameter: torch.Tensor) -> dict:
        tensors = {name: value for name, value in slot.items() if isinstance(value, torch.Tensor)}
        return slot | {name: distribute_like(value, parameter) for name, value in tensors.items()}

    spread = {number: distributed(slot, parameters[number]) for number, slot in state["state"].items()}
    optimizer.load_state_dict({"state": spread, "param_groups": state["param_groups"]})
