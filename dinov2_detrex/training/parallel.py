"""How a model is spread over the processes of a run: not at all, DDP, or FSDP2."""

import torch
from detectron2.utils import comm
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks
from torch.nn.parallel import DistributedDataParallel


def wrap(model: nn.Module, train, device: torch.device) -> nn.Module:
    """The model as the training step calls it; alone, the model itself.

    Args:
        train: the config section; `ddp` holds keywords of DistributedDataParallel and `fp16_compression`.
    """
    if comm.get_world_size() == 1:
        return model
    options = dict(train.ddp)
    compress = options.pop("fp16_compression", False)
    wrapped = DistributedDataParallel(model, device_ids=[device.index] if device.type == "cuda" else None, **options)
    if compress:
        wrapped.register_comm_hook(state=None, hook=default_hooks.fp16_compress_hook)
    return wrapped
