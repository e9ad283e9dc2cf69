"""The extra coarse level on top of a feature pyramid, `LastLevelMaxPool`, and the name of the pyramid `FPN`."""

import torch
from torch import nn

from dinov2_detrex.engine import NotProvided


class LastLevelMaxPool(nn.Module):
    """One level more at twice the stride, by taking every second row and column. No parameters."""

    def __init__(self):
        super().__init__()
        self.num_levels = 1
        self.in_feature = "p5"

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """(B, C, H, W) -> [(B, C, ceil(H / 2), ceil(W / 2))]."""
        return [x[..., ::2, ::2]]


class FPN(NotProvided):
    """Named by base configs, not provided here."""
