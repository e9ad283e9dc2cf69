"""How does a block of a timm ViT attend within windows only, so that its cost grows linearly with the pixels?

As in ViTDet (arXiv 2203.16527, section 3, "Backbone adaptation") only the attention is local: norms, MLP and drop path
of a block see whole images. Class and register tokens follow RF-DETR's idea (arXiv 2511.09554): every window attends to
them and they to every window; here their outputs are averaged over the windows, weighted by the cells of each, after
every block, so that the sequence keeps timm's shape and one window that covers the image is global attention exactly.

Letters: B images, P prefix tokens, H x W cells, n windows of h x w cells, C channels.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from dinov2_detrex.backbone.vit_families import PlainViT
from dinov2_detrex.runtime.values import require_whole

Arguments = tuple[Any, ...]  # of a call, by position


@dataclass(frozen=True)
class Tiling:
    """A grid of H x W cells cut into windows of h x w, the last row and column of windows padded."""

    grid_hw: tuple[int, int]
    window_hw: tuple[int, int]

    @classmethod
    def of(cls, grid_hw: tuple[int, int], window_size: int) -> "Tiling":
        """Windows of at most `window_size` cells a side; a side that fits in one window is not padded.

        In an exported graph of dynamic size, where a side is a symbol, windows have one size and any may be padded.
        """
        height, width = grid_hw
        if isinstance(height, torch.SymInt) or isinstance(width, torch.SymInt):
            return cls((height, width), (window_size, window_size))
        return cls((height, width), (min(window_size, height), min(window_size, width)))

    @property
    def padded(self) -> bool:
        """Whether there may be padding."""
        return any(isinstance(rows, torch.SymInt) or rows > 0 for rows in self.padding)

    @property
    def counts(self) -> tuple[int, int]:
        """Windows down and across."""
        (height, width), (h, w) = self.grid_hw, self.window_hw
        return (height + h - 1) // h, (width + w - 1) // w  # of positive numbers: ONNX's division rounds towards zero

    @property
    def padding(self) -> tuple[int, int]:
        """Rows and columns of padding."""
        (down, across), (h, w), (height, width) = self.counts, self.window_hw, self.grid_hw
        return down * h - height, across * w - width

    def cut(self, cells: torch.Tensor) -> torch.Tensor:
        """(B, H*W, C) to (B, n, h*w, C), padded with zeros."""
        (down, across), (h, w), (rows, columns) = self.counts, self.window_hw, self.padding
        grid = F.pad(cells.unflatten(1, self.grid_hw), (0, 0, 0, columns, 0, rows))
        windows = grid.unflatten(2, (across, w)).unflatten(1, (down, h)).transpose(2, 3)  # B down across h w C
        return windows.flatten(3, 4).flatten(1, 2)

    def join(self, windows: torch.Tensor) -> torch.Tensor:
        """(B, n, h*w, C) back to (B, H*W, C), without the padding."""
        height, width = self.grid_hw
        grid = windows.unflatten(2, self.window_hw).unflatten(1, self.counts).transpose(2, 3)  # B down h across w C
        return grid.flatten(3, 4).flatten(1, 2)[:, :height, :width].flatten(1, 2)

    def valid_cells(self, device: torch.device) -> torch.Tensor:
        """(n, h*w) bool, False on padding."""
        ones = torch.ones(1, math.prod(self.grid_hw), 1, device=device)
        return self.cut(ones)[0, :, :, 0] > 0


class WindowedAttention:
    """Makes the attention of chosen blocks local, by hooks on the attention modules: timm's code stays as it is.

    Args:
        window_size: cells a side.
        num_prefix_tokens: P, class and register tokens at the start of the sequence.
    """

    def __init__(self, window_size: int, num_prefix_tokens: int):
        self.window_size, self.num_prefix_tokens = window_size, num_prefix_tokens
        self._tiling: Tiling | None = None

    @property
    def tiling(self) -> Tiling:
        """Of the grid that was announced last."""
        assert self._tiling is not None, "set_grid comes before the block"
        return self._tiling

    def attach(self, attention: nn.Module) -> None:
        """From now on `attention` gets windows as a batch, and its output is put together again."""
        attention.register_forward_pre_hook(self._cut, with_kwargs=True)
        attention.register_forward_hook(self._join)

    def set_grid(self, grid_hw: tuple[int, int]) -> None:
        """Announce the grid of the tokens that the next block gets."""
        self._tiling = Tiling.of(grid_hw, self.window_size)

    def _cut(self, attention: nn.Module, args: Arguments, kwargs: dict[str, Any]) -> tuple[Arguments, dict[str, Any]]:
        tokens, *rest = args
        prefix, cells = tokens[:, : self.num_prefix_tokens], tokens[:, self.num_prefix_tokens :]
        windows = self.tiling.cut(cells)  # B n h*w C
        prefix = prefix.unsqueeze(1).expand(-1, windows.shape[1], -1, -1)
        if self.tiling.padded:
            kwargs = {**kwargs, "attn_mask": self._mask(tokens.shape[0], tokens.device)}
        if kwargs.get("rope") is not None:
            kwargs = {**kwargs, "rope": self._cut_rope(kwargs["rope"], tokens.shape[0])}
        return (torch.cat([prefix, windows], dim=2).flatten(0, 1), *rest), kwargs

    def _mask(self, batch: int, device: torch.device) -> torch.Tensor:
        """(B*n, 1, 1, P + h*w) bool, True where a token may be attended to."""
        cells = self.tiling.valid_cells(device)
        valid = torch.cat([cells.new_ones((cells.shape[0], self.num_prefix_tokens)), cells], dim=1)
        return valid.repeat(batch, 1)[:, None, None]

    def _cut_rope(self, rope: torch.Tensor, batch: int) -> torch.Tensor:
        """(H*W, D) or (heads, H*W, D) to (B*n, 1 or heads, h*w, D)."""
        heads_first = rope if rope.dim() == 3 else rope.unsqueeze(0)
        return self.tiling.cut(heads_first).transpose(0, 1).repeat(batch, 1, 1, 1)

    def _join(self, attention: nn.Module, args: Arguments, output: torch.Tensor) -> torch.Tensor:
        num_windows = math.prod(self.tiling.counts)
        windows = output.unflatten(0, (-1, num_windows))  # B n P+h*w C
        prefix, cells = windows[:, :, : self.num_prefix_tokens], windows[:, :, self.num_prefix_tokens :]
        share = self.tiling.valid_cells(output.device).sum(dim=1) / math.prod(self.tiling.grid_hw)
        prefix = (prefix * share.to(output.dtype)[:, None, None]).sum(dim=1)
        return torch.cat([prefix, self.tiling.join(cells)], dim=1)


def default_window_blocks(num_blocks: int) -> list[int]:
    """All but a few evenly spaced global blocks, the last one among them: 2, 5, 8, 11 are global of 12 (ViTDet)."""
    num_global = min(4, max(1, num_blocks // 3))
    global_blocks = {round((k + 1) * num_blocks / num_global) - 1 for k in range(num_global)}
    return [i for i in range(num_blocks) if i not in global_blocks]


def attach_windows(
    vit: PlainViT | None, window_size: int, window_block_indexes: Sequence[int] | None
) -> WindowedAttention | None:
    """Make blocks of a plain ViT attend within windows.

    Args:
        vit: the timm model; None stands for a model that is no plain ViT.
        window_size: cells a side; 0 leaves all attention global.
        window_block_indexes: blocks to make local; None for `default_window_blocks`.

    Returns:
        the object that must know the grid before each block runs; None where nothing is local.

    Raises:
        ValueError: a model without plain attention blocks, or block numbers that it has not.
    """
    require_whole("TimmBackbone", 0, window_size=window_size)
    if not window_size:
        if window_block_indexes:
            raise ValueError(f"window_block_indexes={list(window_block_indexes)} needs a window_size (cells a side)")
        return None
    if vit is None:
        raise ValueError(f"window_size={window_size}: give a number of cells, for a plain ViT of timm")
    chosen = default_window_blocks(len(vit.blocks)) if window_block_indexes is None else list(window_block_indexes)
    require_whole("TimmBackbone", 0, **{f"window_block_indexes[{n}]": i for n, i in enumerate(chosen)})
    wrong = [i for i in chosen if not 0 <= i < len(vit.blocks) or not hasattr(vit.blocks[i], "attn")]
    if wrong:
        raise ValueError(
            f"window_block_indexes {wrong}: not among the {len(vit.blocks)} blocks with one attention each"
        )
    windows = WindowedAttention(window_size, vit.num_prefix_tokens)
    for i in chosen:
        windows.attach(vit.blocks[i].get_submodule("attn"))
    return windows
