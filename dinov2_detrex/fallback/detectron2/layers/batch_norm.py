"""Normalisation layers by name (`get_norm`), the frozen batch norm and the channels-first layer norm."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn


class LayerNorm(nn.Module):
    """Layer norm over the channels of (B, C, H, W), each position by itself, with the biased variance.

    Not a `torch.nn.LayerNorm`, so that optimizers which treat norm layers apart do not count it among them.

    Args:
        normalized_shape: number of channels C.
        eps: added to the variance.
    """

    def __init__(self, normalized_shape: int, eps: float = 1e-6):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(normalized_shape))
        self.bias = nn.Parameter(torch.zeros(normalized_shape))
        self.eps = eps
        self.normalized_shape = (normalized_shape,)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        variance, mean = torch.var_mean(x, dim=1, keepdim=True, correction=0)
        normalized = (x - mean) * torch.rsqrt(variance + self.eps)
        return normalized * self.weight[:, None, None] + self.bias[:, None, None]


class FrozenBatchNorm2d(nn.Module):
    """Batch norm whose statistics and affine terms are fixed, in training too: buffers, no parameters.

    Args:
        num_features: number of channels C.
        eps: added to the variance.
        device, dtype: of the buffers; timm passes them.
        Further keywords (momentum, affine, ...) have no meaning for a frozen norm and are ignored.
    """

    weight: torch.Tensor
    bias: torch.Tensor
    running_mean: torch.Tensor
    running_var: torch.Tensor

    _version = 3  # state dicts before version 2 may lack the running statistics

    def __init__(self, num_features: int, eps: float = 1e-5, device=None, dtype=None, **kwargs):
        super().__init__()
        self.num_features = num_features
        self.eps = eps
        ones = torch.ones(num_features, device=device, dtype=dtype)
        self.register_buffer("weight", ones)
        self.register_buffer("bias", torch.zeros_like(ones))
        self.register_buffer("running_mean", torch.zeros_like(ones))
        self.register_buffer("running_var", torch.ones_like(ones) - eps)
        self.register_buffer("num_batches_tracked", None)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, False, eps=self.eps)

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, *args):
        version = local_metadata.get("version")
        if version is None or version < 2:
            state_dict.setdefault(prefix + "running_mean", torch.zeros_like(self.running_mean))
            state_dict.setdefault(prefix + "running_var", torch.ones_like(self.running_var))
        state_dict.pop(prefix + "num_batches_tracked", None)  # a trained batch norm has it, a frozen one does not
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *args)

    def __repr__(self) -> str:
        return f"FrozenBatchNorm2d(num_features={self.num_features}, eps={self.eps})"

    @classmethod
    def convert_frozen_batchnorm(cls, module: nn.Module) -> nn.Module:
        """Freeze every batch norm in `module`: a new module if it is one itself, else the same, changed in place."""
        if isinstance(module, (nn.BatchNorm2d, nn.SyncBatchNorm)):
            return cls._from_batchnorm(module)
        for name, child in module.named_children():
            frozen = cls.convert_frozen_batchnorm(child)
            if frozen is not child:
                setattr(module, name, frozen)
        return module

    @classmethod
    def _from_batchnorm(cls, norm: nn.BatchNorm2d | nn.SyncBatchNorm) -> "FrozenBatchNorm2d":
        mean, variance = norm.running_mean, norm.running_var
        assert mean is not None and variance is not None, "a batch norm without running statistics cannot be frozen"
        frozen = cls(norm.num_features, norm.eps, mean.device, mean.dtype)
        if norm.affine:
            frozen.weight.copy_(norm.weight.detach())
            frozen.bias.copy_(norm.bias.detach())
        frozen.running_mean.copy_(mean)
        frozen.running_var.copy_(variance)
        return frozen.train(norm.training)


def _group_norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(32, channels)


NORMS: dict[str, Callable[[int], nn.Module]] = {
    "BN": nn.BatchNorm2d,
    "SyncBN": nn.SyncBatchNorm,
    "nnSyncBN": nn.SyncBatchNorm,
    "FrozenBN": FrozenBatchNorm2d,
    "GN": _group_norm,
    "LN": LayerNorm,
}


def get_norm(norm: str | Callable[[int], nn.Module] | None, out_channels: int) -> nn.Module | None:
    """A norm layer for `out_channels` channels.

    Args:
        norm: None or "" for none, a name of `NORMS`, or a callable that is given the number of channels.

    Raises:
        KeyError: the name is not known; the message lists the known ones.
        ValueError: "GN" has 32 groups, which must divide the channels.
    """
    if norm is None or norm == "":
        return None
    if not isinstance(norm, str):
        return norm(out_channels)
    if norm not in NORMS:
        raise KeyError(f"norm {norm!r} is not one of {', '.join(NORMS)} (naiveSyncBN needs the real detectron2)")
    return NORMS[norm](out_channels)
