"""Sine position embedding of a feature map from its padding mask (Carion et al. 2020, section A.4; DAB-DETR)."""

import math

import torch
from torch import Tensor, nn


class PositionEmbeddingSine(nn.Module):
    """Position of every cell as sines and cosines of its row and column, counted over valid cells only.

    Args:
        num_pos_feats: channels for each of y and x; even.
        temperature: ratio of the longest to the shortest wave length.
        scale: length that a normalised axis is stretched to, in radians.
        eps: keeps the normalisation finite where a line has no valid cell.
        offset: added to the count before normalising; -0.5 puts the position at the centre of the cell.
        normalize: divide by the number of valid cells of the line, so that positions do not depend on the size.
    """

    def __init__(
        self,
        num_pos_feats: int = 64,
        temperature: float = 10000,
        scale: float = 2 * math.pi,
        eps: float = 1e-6,
        offset: float = 0.0,
        normalize: bool = False,
    ):
        super().__init__()
        self.num_pos_feats = num_pos_feats
        self.temperature = temperature
        self.scale = scale
        self.eps = eps
        self.offset = offset
        self.normalize = normalize

    def forward(self, mask: Tensor) -> Tensor:
        """Embed a padding mask (B, H, W), True where padded -> (B, 2 * num_pos_feats, H, W), y's channels first.

        Raises:
            TypeError: the mask is neither bool nor integer.
        """
        if mask.is_floating_point():
            raise TypeError(f"the padding mask is {mask.dtype}; a bool mask, True where padded, is expected")
        valid = ~mask.bool()
        y, x = (self._positions(valid.cumsum(dim, dtype=torch.float32), dim) for dim in (1, 2))
        return torch.cat([self._waves(y), self._waves(x)], dim=3).permute(0, 3, 1, 2)  # B H W C -> B C H W

    def _positions(self, counts: Tensor, dim: int) -> Tensor:
        if not self.normalize:
            return counts
        last = counts.narrow(dim, counts.shape[dim] - 1, 1)
        return (counts + self.offset) / (last + self.eps) * self.scale

    def _waves(self, positions: Tensor) -> Tensor:
        """(B, H, W) -> (B, H, W, num_pos_feats): sine and cosine of each frequency, interleaved."""
        exponents = torch.arange(0, self.num_pos_feats, 2, device=positions.device) / self.num_pos_feats
        phases = positions[..., None] / self.temperature**exponents
        return torch.stack([phases.sin(), phases.cos()], dim=-1).flatten(-2)
