"""What form of deformable attention do exporters and runtimes read? Gathers and a matrix product, no GridSample.

Letters as in `detector/deformable_attention.py`: B images, Q queries, S cells, M heads of width Dh, L levels, P points.
A sampled value is a sum over the four cells around the point, so the table that is gathered from has a row for every
2 x 2 cells: one row of 4 Dh numbers a point in place of four of Dh, and a quarter of the index arithmetic.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dinov2_detrex.detector.deformable_attention import MultiScaleDeformableAttention

Shapes = Sequence[tuple[int, int]]  # (height, width) of every level; of a dynamic graph symbols for them


class GatheringAttention(nn.Module):
    """A `MultiScaleDeformableAttention` of batch-first sequences in this form, equal in numbers, for inference.

    Args:
        original: the layer; its parameters are shared.

    Raises:
        ValueError: the layer takes sequences (N, B, D).
    """

    def __init__(self, original: MultiScaleDeformableAttention):
        super().__init__()
        if not original.batch_first:
            raise ValueError("only attention with batch_first=True can be exported")
        self.num_heads, self.num_levels, self.num_points = (
            original.num_heads,
            original.num_levels,
            original.num_points,
        )
        self.sampling_offsets = original.sampling_offsets
        self.attention_weights = original.attention_weights
        self.value_proj = original.value_proj
        self.output_proj = original.output_proj

    def forward(
        self,
        query: Tensor,
        *,
        reference_points: Tensor,
        spatial_shapes: Shapes,
        value: Tensor | None = None,
        query_pos: Tensor | None = None,
        key_padding_mask: Tensor | None = None,
        **ignored: Any,
    ) -> Tensor:
        """Attend and add the residual; arguments as of the original, the shapes as pairs."""
        values = self.value_proj(query if value is None else value)
        if key_padding_mask is not None:
            values = values.masked_fill(key_padding_mask[..., None], 0.0)
        moved = query if query_pos is None else query + query_pos
        sizes_wh = sizes_tensor(spatial_shapes)
        locations = self._locations(moved, reference_points, sizes_wh)
        weights = self.attention_weights(moved).unflatten(-1, (self.num_heads, -1)).softmax(-1)  # B Q M LP
        values = values.unflatten(-1, (self.num_heads, -1))
        sampled = weighted_rows(*self.table_and_rows(values, locations, weights, spatial_shapes, sizes_wh))
        return query + self.output_proj(sampled.view(query.shape[0], -1, query.shape[2]))

    def table_and_rows(
        self, values: Tensor, locations: Tensor, weights: Tensor, shapes_hw: Shapes, sizes_wh: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What `weighted_rows` takes.

        Args:
            values: (B, S, M, Dh).
            locations: (B, Q, M, L, P, 2).
            weights: (B, Q, M, L * P).
            shapes_hw, sizes_wh: of the levels.
        """
        rows, shares = corner_rows(locations, shapes_hw, sizes_wh)
        return corner_table(values, shapes_hw), rows, (weights[..., None] * shares).flatten(3)

    def _locations(self, query: Tensor, references: Tensor, sizes_wh: Tensor) -> Tensor:
        """(B, Q, M, L, P, 2), (x, y) normalised to the level."""
        shape = (self.num_heads, self.num_levels, self.num_points, 2)
        offsets = self.sampling_offsets(query).unflatten(-1, shape)
        references = references[:, :, None, :, None, :]  # B Q 1 L 1 2|4
        if references.shape[-1] == 2:
            return references + offsets / sizes_wh[:, None]
        return references[..., :2] + offsets * (references[..., 2:] * (0.5 / self.num_points))


def sizes_tensor(shapes_hw: Shapes) -> Tensor:
    """(L, 2), float32: width and height of every level."""
    return matrix_of([(w, h) for h, w in shapes_hw], torch.float32)


def matrix_of(rows: Sequence[tuple[int, ...]], dtype: torch.dtype) -> Tensor:
    """A matrix of numbers that may be symbols."""
    return torch.stack([torch.scalar_tensor(n, dtype=dtype) for row in rows for n in row]).view(len(rows), -1)


def corner_rows(locations: Tensor, shapes_hw: Shapes, sizes_wh: Tensor) -> tuple[Tensor, Tensor]:
    """Which row of the table holds the cells around each point, and how much each of the four counts.

    Args:
        locations: (B, Q, M, L, P, 2).
        shapes_hw, sizes_wh: of the levels.

    Returns:
        rows (B, Q, M, L * P), int32, enough for any memory; shares (B, Q, M, L * P, 4) in the order upper left, upper
        right, lower left, lower right.
    """
    low, fractions = cells_and_fractions(locations, sizes_wh)
    x, y = fractions.unbind(-1)
    shares = torch.stack(((1 - x) * (1 - y), x * (1 - y), (1 - x) * y, x * y), dim=-1)
    return rows_of_cells(low, shapes_hw, sizes_wh, border=1), shares.flatten(3, 4)


def cells_and_fractions(locations: Tensor, sizes_wh: Tensor) -> tuple[Tensor, Tensor]:
    """The cells whose centres lie before the points, -1..size - 1, and the ways from there to the next ones, 0..1.

    Both (B, Q, M, L, P, 2), as the locations are.
    """
    cells = locations * sizes_wh[:, None] - 0.5
    cells = torch.minimum(cells.clamp(min=-1.0), sizes_wh[:, None])  # beyond the border of zeros nothing changes
    low = torch.minimum(cells.floor(), sizes_wh[:, None] - 1)
    return low, cells - low


def rows_of_cells(low: Tensor, shapes_hw: Shapes, sizes_wh: Tensor, border: int) -> Tensor:
    """Rows (B, Q, M, L * P), int32, of a table with a row for every (image, cell, head).

    Args:
        low: (B, Q, M, L, P, 2), (x, y) of the cells, from -1.
        shapes_hw, sizes_wh: of the levels.
        border: how many rows and columns of cells a level has more than that.
    """
    num_images, _, num_heads, *_ = low.shape
    areas = [(h + border) * (w + border) for h, w in shapes_hw]
    starts = matrix_of([(sum(areas[:level]),) for level in range(len(areas))], torch.int32)  # L 1
    first = (low[..., 1] + 1) * (sizes_wh[:, :1] + border) + (low[..., 0] + 1)
    images = torch.arange(num_images, dtype=torch.int32)[:, None, None, None, None]
    heads = torch.arange(num_heads, dtype=torch.int32)[:, None, None]
    in_image = first.to(torch.int32) + starts
    rows = (in_image + images * matrix_of([(sum(areas),)], torch.int32)) * num_heads + heads
    return rows.flatten(3)


def bordered_levels(values: Tensor, shapes_hw: Shapes) -> list[Tensor]:
    """(B, S, M, Dh) to (B, H_l + 2, W_l + 2, M, Dh) of each level, in a border of zeros."""
    grids, start = [], 0
    for height, width in shapes_hw:
        level = values[:, start : start + height * width].unflatten(1, (height, width))
        start = start + height * width
        grids.append(F.pad(level, (0, 0, 0, 0, 1, 1, 1, 1)))
    return grids


def corner_table(values: Tensor, shapes_hw: Shapes) -> Tensor:
    """(B, S, M, Dh) to (B * sum (H_l + 1)(W_l + 1) * M, 4 Dh): every 2 x 2 cells of the levels in a border of zeros."""
    tables = []
    for grid in bordered_levels(values, shapes_hw):
        corners = (grid[:, :-1, :-1], grid[:, :-1, 1:], grid[:, 1:, :-1], grid[:, 1:, 1:])
        tables.append(torch.cat(corners, dim=-1).flatten(1, 2))
    return torch.cat(tables, dim=1).flatten(0, 2)


def weighted_rows(table: Tensor, rows: Tensor, weights: Tensor) -> Tensor:
    """(B, Q, M, Dh): for each query and head the sum of its rows' cells, (B, Q, M, K) of them, times their weights."""
    num_images, num_queries, num_heads, num_cells = weights.shape
    num_bags = num_images * num_queries * num_heads
    cells = F.embedding(rows.flatten(), table).view(num_bags, num_cells, -1)
    sums = torch.matmul(weights.reshape(num_bags, 1, num_cells), cells)
    return sums.view(num_images, num_queries, num_heads, -1)
