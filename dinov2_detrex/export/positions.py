"""How do learnt positions stand in an exported graph, right at every size?

A graph of one size holds them resampled. A graph of dynamic size resamples them by a product with one matrix a side,
whose entries follow from the size: the cubic convolution of Keys (1981) as torch has it, without any Resize node, whose
antialiasing and borders runtimes read differently.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from timm.layers.pos_embed_sincos import RotaryEmbeddingDinoV3
from torch import Tensor, nn

from dinov2_detrex.backbone import TimmBackbone
from dinov2_detrex.backbone.freezing import FrozenPart
from dinov2_detrex.backbone.position import HUB_OFFSET, resample_grid
from dinov2_detrex.backbone.vit_families import DISTILLED
from dinov2_detrex.runtime.errors import UserError


class GridPositions(nn.Module):
    """Adds the positions of its grid to patch embeddings (B, H, W, C).

    Args:
        grid: (1, H0, W0, C), the stored positions.
        mode: see `position.resample_grid`.
    """

    def __init__(self, grid: Tensor, mode: str):
        super().__init__()
        self.register_buffer("grid", grid)
        self.mode = mode

    grid: Tensor

    def forward(self, patches: Tensor) -> Tensor:
        grid_hw, stored_hw = patches.shape[1:3], self.grid.shape[1:3]
        if not any(isinstance(n, torch.SymInt) for n in grid_hw) and tuple(grid_hw) == tuple(stored_hw):
            return patches + self.grid
        down, across = resampling_matrices(grid_hw, stored_hw, self.mode)
        rows = torch.matmul(down, self.grid[0].flatten(1)).unflatten(1, (stored_hw[1], -1))  # H W0 C
        return patches + torch.matmul(across, rows)


class SizedRope(nn.Module):
    """DINOv3's rotary embedding where the grid's size may be a symbol, which timm's own turns into a number.

    Args:
        original: timm's; its frequencies are used.
    """

    def __init__(self, original: RotaryEmbeddingDinoV3):
        super().__init__()
        self.original = original

    def get_embed(self, shape: tuple[int, int]) -> Tensor:
        """(H * W, 2 * dim), as timm's."""
        sizes = [torch.scalar_tensor(n, dtype=torch.float32) for n in shape]
        limit = {"max": torch.maximum, "min": torch.minimum}.get(self.original.normalize_coords)
        lengths = sizes if limit is None else [limit(*sizes)] * 2
        first = 0.5 + self.original.grid_offset
        sides = [(torch.arange(n, dtype=torch.float32) + first) / length for n, length in zip(shape, lengths)]
        if self.original.grid_indexing == "xy":
            sides.reverse()
        grid = torch.stack(torch.meshgrid(sides, indexing=self.original.grid_indexing), dim=-1)
        sin, cos = self.original._get_pos_embed_from_coords(2.0 * grid.flatten(0, 1) - 1.0)
        return torch.cat([sin, cos], dim=-1)


def settle_positions(backbone: TimmBackbone, canvas_hw: tuple[int, int] | None) -> None:
    """Put a plain ViT's positions where they are right at `canvas_hw` pixels, or at every size if it is None.

    Of learnt ones the prefix tokens take up theirs, and the patch embedding adds those of the grid.

    Raises:
        UserError: a model that treats its positions in a way of its own.
    """
    vit: Any = backbone.vit
    backbone.frozen = FrozenPart()  # a graph for inference has no gradients to switch off
    if vit is not None and isinstance(getattr(vit, "rope", None), RotaryEmbeddingDinoV3) and canvas_hw is None:
        vit.rope = SizedRope(vit.rope)
    if vit is None or vit.pos_embed is None:
        return
    if DISTILLED.covers(vit) or not vit.dynamic_img_size:
        raise UserError(f"{type(vit).__name__} with its positions cannot be exported; a plain DINOv2 or DINOv3 can")
    positions = vit.pos_embed.detach()
    if not vit.no_embed_class:
        positions = _give_to_prefix(vit, positions)
    grid = positions.unflatten(1, tuple(vit.patch_embed.grid_size))
    mode = "hub" if backbone.uses_hub_positions else "timm"
    if canvas_hw is not None:
        grid = resample_grid(grid, vit.patch_embed.dynamic_feat_size(canvas_hw), mode)
    backbone.uses_hub_positions, vit.pos_embed = False, None
    vit._pos_embed = partial(_behind_prefix, vit)  # timm's own leaves the prefix out where there are no positions
    vit.patch_embed.positions = GridPositions(grid, mode)
    vit.patch_embed.register_forward_hook(lambda embed, _, patches: embed.positions(patches))


def _behind_prefix(vit: Any, patches: Tensor) -> Tensor:
    """Patch embeddings (B, H, W, C) as tokens (B, N, C) behind the class and register tokens."""
    prefix = [token.expand(patches.shape[0], -1, -1) for token in (vit.cls_token, vit.reg_token) if token is not None]
    return torch.cat([*prefix, patches.flatten(1, 2)], dim=1)


def _give_to_prefix(vit: Any, positions: Tensor) -> Tensor:
    """Add the first positions to the class and register tokens, and return the others."""
    for name in ("cls_token", "reg_token"):
        token = getattr(vit, name)
        if token is not None:
            setattr(vit, name, nn.Parameter(token + positions[:, : token.shape[1]], requires_grad=False))
            positions = positions[:, token.shape[1] :]
    return positions


def resampling_matrices(grid_hw: Sequence[int], stored_hw: Sequence[int], mode: str) -> tuple[Tensor, Tensor]:
    """(H, H0) and (W, W0): how much each stored position counts in each wanted one, along both sides.

    Args:
        grid_hw: wanted cells, ints or symbols for them.
        stored_hw: cells there are.
        mode: "hub" (a = -0.75, the border repeated, the factor of the original) or "timm" (a = -0.5, the kernel as wide
            as a wanted cell where that is wider, and what lies inside of the grid normalised).
    """
    wanted = [torch.scalar_tensor(n, dtype=torch.float32) for n in grid_hw]
    if mode == "timm":
        down, across = (_antialiased(n, n0, n0 / size) for n, n0, size in zip(grid_hw, stored_hw, wanted))
        return down, across
    native = (wanted[0] == stored_hw[0]) & (wanted[1] == stored_hw[1])  # there the original leaves them alone
    steps = [torch.where(native, torch.ones_like(n), n0 / (n + HUB_OFFSET)) for n, n0 in zip(wanted, stored_hw)]
    down, across = (_bordered(n, n0, step) for n, n0, step in zip(grid_hw, stored_hw, steps))
    return down, across


def _antialiased(size: int, stored: int, step: Tensor) -> Tensor:
    distance = (torch.arange(stored) + 0.5 - _centres(size, step)) / step.clamp(min=1.0)
    weights = _cubic(distance.abs(), -0.5)
    return weights / weights.sum(1, keepdim=True)


def _bordered(size: int, stored: int, step: Tensor) -> Tensor:
    weights = _cubic((torch.arange(-2, stored + 2) + 0.5 - _centres(size, step)).abs(), -0.75)
    first, last = weights[:, :3].sum(1, keepdim=True), weights[:, -3:].sum(1, keepdim=True)  # the border repeated
    return torch.cat([first, weights[:, 3:-3], last], dim=1)


def _centres(size: int, step: Tensor) -> Tensor:
    """(size, 1): the middle of every wanted cell, in stored cells."""
    return (torch.arange(size, dtype=torch.float32)[:, None] + 0.5) * step


def _cubic(distance: Tensor, a: float) -> Tensor:
    near = ((a + 2) * distance - (a + 3)) * distance * distance + 1
    far = a * (((distance - 5) * distance + 8) * distance - 4)
    return torch.where(distance <= 1, near, torch.where(distance < 2, far, torch.zeros_like(far)))
