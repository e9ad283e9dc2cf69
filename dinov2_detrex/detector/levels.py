"""What the transformer sees of a batch: its feature maps, where their cells lie, and which of them are padding.

B images, L levels from fine to coarse, S cells of all levels (row-major per level, levels one after the other), D
channels.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Levels:
    """The feature maps of a batch and what belongs to them.

    Attributes:
        maps: L maps (B, D, H_l, W_l).
        positions: L position codes (B or 1, D, H_l, W_l).
        masks: L masks (B, H_l, W_l), bool, True where padded (at the right and at the bottom); None where nothing is.
        valid_ratios: (B or 1, L, 2), float32: the share of each level that the image covers, (x, y) in 0..1.
    """

    maps: list[Tensor]
    positions: list[Tensor]
    masks: list[Tensor] | None
    valid_ratios: Tensor

    @classmethod
    def from_masks(cls, maps: list[Tensor], positions: list[Tensor], masks: list[Tensor] | None) -> "Levels":
        """With valid ratios read off the masks, so in whole cells; arguments as the attributes."""
        ratios = maps[0].new_ones((1, len(maps), 2), dtype=torch.float32) if masks is None else ratios_of_masks(masks)
        return cls(maps, positions, masks, ratios)

    @property
    def shapes_hw(self) -> list[tuple[int, int]]:
        """(height, width) of every level, in cells."""
        return shapes_of(self.maps)

    def tokens(self) -> Tensor:
        """(B, S, D): the cells of all levels."""
        return flatten_levels(self.maps)

    def memory_padding_mask(self) -> Tensor | None:
        """(B, S), True where a cell is padding; None where nothing is."""
        return None if self.masks is None else torch.cat([mask.flatten(1) for mask in self.masks], dim=1)


def shapes_of(maps: list[Tensor]) -> list[tuple[int, int]]:
    """(height, width) of maps (..., height, width)."""
    return [(x.shape[-2], x.shape[-1]) for x in maps]


def flatten_levels(maps: list[Tensor]) -> Tensor:
    """L maps (B, D, H_l, W_l) to tokens (B, S, D), row-major per level."""
    return torch.cat([x.flatten(2).transpose(1, 2) for x in maps], dim=1)


def ratios_of_masks(masks: list[Tensor]) -> Tensor:
    """(B, L, 2), float32: the unpadded share of each level's first row (x) and first column (y)."""
    shares = [torch.stack(((~m[:, 0]).float().mean(1), (~m[:, :, 0]).float().mean(1)), dim=-1) for m in masks]
    return torch.stack(shares, dim=1)
