"""Which cells of the memory become queries: every cell proposes a box, the ones most like an object are taken.

Two-stage selection: Zhu et al. 2021 (Deformable DETR), A.4; mixed query selection: Zhang et al. 2022 (DINO), 3.4.
"""

import torch
from torch import Tensor

PROPOSAL_SIZE = 0.05  # of the image on the finest level, doubled from level to level
MARGIN = 0.01  # proposals must lie inside (MARGIN, 1 - MARGIN) in all four coordinates


def cell_centres(shapes_hw: list[tuple[int, int]], valid_ratios: Tensor) -> Tensor:
    """(B, S, 2): centre (x, y) of every cell, normalised to the image; beyond 1 in the padding.

    Args:
        shapes_hw: (height, width) of L levels.
        valid_ratios: (B, L, 2), the share of each level's width and height that the image covers.
    """
    centres = []
    for level, (height, width) in enumerate(shapes_hw):
        x = (torch.arange(width, device=valid_ratios.device) + 0.5) / (valid_ratios[:, level, :1] * width)
        y = (torch.arange(height, device=valid_ratios.device) + 0.5) / (valid_ratios[:, level, 1:] * height)
        grid = (x[:, None, :].expand(-1, height, -1), y[:, :, None].expand(-1, -1, width))
        centres.append(torch.stack(grid, dim=-1).flatten(1, 2))
    return torch.cat(centres, dim=1)


def cell_proposals(
    centres: Tensor,
    shapes_hw: list[tuple[int, int]],
    memory_padding_mask: Tensor | None,
    proposal_size: float = PROPOSAL_SIZE,
) -> tuple[Tensor, Tensor]:
    """The box that each cell proposes, and which cells have none.

    Args:
        centres: (B or 1, S, 2), normalised to the image.
        shapes_hw: (height, width) of every level.
        memory_padding_mask: (B, S), True where padded, or None.
        proposal_size: side of the boxes of the finest level, normalised to the image, doubled from level to level.

    Returns:
        boxes CXCYWH as logits (B or 1, S, 4), +inf for cells without one; such cells (B or 1, S): True if padded, or if
        the box leaves the margins.
    """
    sizes = [proposal_size * 2.0**level for level in range(len(shapes_hw))]
    size = torch.cat([centres.new_full((h * w,), size) for size, (h, w) in zip(sizes, shapes_hw)])
    boxes = torch.cat((centres, size[:, None].expand(*centres.shape[:2], 2)), dim=-1)
    invalid = ~((boxes > MARGIN) & (boxes < 1 - MARGIN)).all(-1)
    if memory_padding_mask is not None:
        invalid = invalid | memory_padding_mask
    logits = torch.logit(boxes.clamp(MARGIN, 1 - MARGIN))
    return logits.masked_fill(invalid[..., None], torch.inf), invalid


def best_cells(scores: Tensor, memory_padding_mask: Tensor | None, count: int) -> Tensor:
    """(B, min(count, S)): indices of the highest scores, best first; padded cells only when no others are left.

    In an exported graph of dynamic size, where S is a symbol, (B, count): its smallest canvas has as many cells.
    """
    if memory_padding_mask is not None:
        scores = scores.masked_fill(memory_padding_mask, -torch.inf)
    num_cells = scores.shape[1]
    return scores.topk(count if isinstance(num_cells, torch.SymInt) else min(count, num_cells), dim=1).indices


def gather_tokens(x: Tensor, index: Tensor) -> Tensor:
    """(B or 1, S, C) at (B, K) -> (B, K, C)."""
    return x.expand(index.shape[0], -1, -1).gather(1, index[..., None].expand(-1, -1, x.shape[-1]))
