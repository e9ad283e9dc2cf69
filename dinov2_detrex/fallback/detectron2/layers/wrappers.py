"""Torch layers and functions that also take what detectors feed them: a norm and activation, a list of one."""

import torch
from torch import nn


class Conv2d(nn.Conv2d):
    """`torch.nn.Conv2d` with a norm and an activation behind it; state-dict keys weight, bias, norm.*.

    Args:
        norm: module applied to the output, or None.
        activation: callable applied last, or None.
        The rest goes to `torch.nn.Conv2d`.
    """

    def __init__(self, *args, norm: nn.Module | None = None, activation=None, **kwargs):
        super().__init__(*args, **kwargs)
        self.norm = norm
        self.activation = activation

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) -> (B, C', H', W'); B may be 0, but not for SyncBatchNorm in training."""
        if x.numel() == 0 and self.training:
            assert not isinstance(self.norm, nn.SyncBatchNorm), "SyncBatchNorm cannot train on an empty batch"
        x = super().forward(x)
        if self.norm is not None:
            x = self.norm(x)
        return x if self.activation is None else self.activation(x)


def cat(tensors: list[torch.Tensor] | tuple[torch.Tensor, ...], dim: int = 0) -> torch.Tensor:
    """`torch.cat` that hands back the very tensor when there is only one; anything but a list or tuple asserts."""
    assert isinstance(tensors, (list, tuple)), f"cat takes a list or tuple of tensors, not {type(tensors).__name__}"
    return tensors[0] if len(tensors) == 1 else torch.cat(tensors, dim)
