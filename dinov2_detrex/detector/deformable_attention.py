"""Multi-scale deformable attention (Zhu et al. 2021, Deformable DETR, section 4.1): attend to a few sampled points.

B images, Q queries, S cells of all levels (row-major per level, levels one after the other), M heads of width Dh,
L levels, P points a level and head. Locations are (x, y) normalised to the level: 0 is its left or upper edge, 1 the
opposite one.
"""

import math
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dinov2_detrex.detector.deformable_kernel import attend, kernel_serves
from dinov2_detrex.detector.sampled_rows import Shapes, as_pairs, sizes_wh
from dinov2_detrex.detector.sampled_sum import sampled_sum
from dinov2_detrex.runtime.values import require_heads, require_share, require_whole


class MultiScaleDeformableAttention(nn.Module):
    """Each query samples `num_points` points on every level around its reference, and adds them up by its weights.

    Args:
        embed_dim: width D of queries and values.
        num_heads: M, divides `embed_dim`.
        num_levels, num_points: L and P.
        img2col_step: accepted and not used: it sized the batches of a CUDA kernel.
        dropout: on the output, before the residual.
        batch_first: sequences are (B, N, D) instead of (N, B, D).

    Raises:
        ValueError: `embed_dim` is not divisible by `num_heads`.
    """

    def __init__(
        self,
        embed_dim: int = 256,
        num_heads: int = 8,
        num_levels: int = 4,
        num_points: int = 4,
        img2col_step: int = 64,
        dropout: float = 0.1,
        batch_first: bool = False,
    ):
        super().__init__()
        require_heads(self, embed_dim, num_heads)
        require_whole(self, 1, num_levels=num_levels, num_points=num_points)
        require_share(self, dropout=dropout)
        if (embed_dim // num_heads).bit_count() != 1:
            warnings.warn(
                f"heads of width {embed_dim // num_heads}, no power of two, suit GPU kernels badly", stacklevel=2
            )
        self.embed_dim = embed_dim
        self.num_heads = num_heads
        self.num_levels = num_levels
        self.num_points = num_points
        self.im2col_step = img2col_step
        self.batch_first = batch_first
        self.dropout = nn.Dropout(dropout)
        num_samples = num_heads * num_levels * num_points
        self.sampling_offsets = nn.Linear(embed_dim, num_samples * 2)
        self.attention_weights = nn.Linear(embed_dim, num_samples)
        self.value_proj = nn.Linear(embed_dim, embed_dim)
        self.output_proj = nn.Linear(embed_dim, embed_dim)
        self.init_weights()

    @torch.no_grad()
    def init_weights(self) -> None:
        """Head m looks along the angle 2 pi m / M, its point p at p + 1 cells, all with equal weight."""
        for linear in (self.sampling_offsets, self.attention_weights):
            nn.init.zeros_(linear.weight)
            nn.init.zeros_(linear.bias)
        for linear in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)
        angle = torch.arange(self.num_heads, dtype=torch.float32) * (2 * math.pi / self.num_heads)
        direction = torch.stack((angle.cos(), angle.sin()), dim=-1)
        direction = direction / direction.abs().amax(dim=-1, keepdim=True)
        distance = torch.arange(1, self.num_points + 1, dtype=torch.float32)
        offsets = (direction[:, None, None] * distance[:, None]).expand(-1, self.num_levels, -1, -1)  # M L P 2
        self.sampling_offsets.bias.copy_(offsets.flatten())

    def forward(
        self,
        query: Tensor,
        key: Tensor | None = None,
        value: Tensor | None = None,
        identity: Tensor | None = None,
        query_pos: Tensor | None = None,
        key_padding_mask: Tensor | None = None,
        reference_points: Tensor | None = None,
        spatial_shapes: Shapes | None = None,
        level_start_index: Tensor | None = None,
        **ignored: Any,
    ) -> Tensor:
        """Attend and add the residual.

        Args:
            query: (B, Q, D), or (Q, B, D) without `batch_first`; so are value, identity and the result.
            key: not used.
            value: defaults to the query.
            identity: the residual, defaults to the query without its position.
            query_pos: added to the query.
            key_padding_mask: (B or 1, S), True where padded; such cells count as zero.
            reference_points: (B or 1, Q, L, 2) points, or (B or 1, Q, L, 4) boxes CXCYWH, normalised to the level.
            spatial_shapes: L rows (height, width); pairs of ints are best, a tensor is read back from its device.
            level_start_index: not used, follows from the shapes.

        Raises:
            AssertionError: the shapes do not add up to the length of the value.
            ValueError: references or shapes are missing, or the references are neither points nor boxes.
        """
        if reference_points is None or spatial_shapes is None:
            raise ValueError("deformable attention needs reference_points and spatial_shapes")
        value = query if value is None else value
        identity = query if identity is None else identity
        query = query if query_pos is None else query + query_pos
        if not self.batch_first:
            query, value = query.transpose(0, 1), value.transpose(0, 1)
        shapes_hw = as_pairs(spatial_shapes)
        locations, weights = self._sampling(query, reference_points, shapes_hw)
        values = self._values(value, key_padding_mask)
        out = self.output_proj(multi_scale_deformable_attention(values, shapes_hw, locations, weights))
        if not self.batch_first:
            out = out.transpose(0, 1)
        return identity + self.dropout(out)

    def _values(self, value: Tensor, padding_mask: Tensor | None) -> Tensor:
        """(B, S, D) -> (B, S, M, Dh), zero where padded."""
        value = self.value_proj(value)
        if padding_mask is not None:
            value = value.masked_fill(padding_mask[..., None], 0.0)
        return value.unflatten(-1, (self.num_heads, -1))

    def _sampling(
        self, query: Tensor, references: Tensor, shapes_hw: Sequence[tuple[int, int]]
    ) -> tuple[Tensor, Tensor]:
        """Where each query looks, (B, Q, M, L, P, 2), and how much it weighs each place, (B, Q, M, L, P)."""
        offsets = self.sampling_offsets(query).unflatten(-1, (self.num_heads, -1))  # B Q M L*P*2
        weights = self.attention_weights(query).unflatten(-1, (self.num_heads, -1)).softmax(-1)
        if references.shape[-1] == 2:
            step = 1.0 / sizes_wh(shapes_hw, references)[None, None]
        elif references.shape[-1] == 4:
            step = references[..., 2:] * (0.5 / self.num_points)
        else:
            raise ValueError(f"references must be points (2) or boxes (4), got {references.shape[-1]} coordinates")
        locations = self._for_each_point(references[..., :2]) + offsets * self._for_each_point(step)
        levels_points = (self.num_levels, self.num_points)
        return locations.unflatten(-1, (*levels_points, 2)), weights.unflatten(-1, levels_points)

    def _for_each_point(self, x: Tensor) -> Tensor:
        """(B, Q, L, 2) -> (B, Q, 1, L * P * 2): written out, because sums over short broadcast rows take long."""
        return x[:, :, None, :, None].expand(-1, -1, -1, -1, self.num_points, -1).flatten(3)


def multi_scale_deformable_attention(
    value: Tensor, value_spatial_shapes: Shapes, sampling_locations: Tensor, attention_weights: Tensor
) -> Tensor:
    """The operator: sum over levels and points of the attention weight times the bilinearly sampled value.

    Cells are squares with their values at the centres, and what lies outside of a level is zero (`grid_sample` with
    `align_corners=False, padding_mode="zeros"`). Half precision is computed in float32. On CUDA a kernel does it, see
    `deformable_kernel`.

    Args:
        value: (B, S, M, Dh).
        value_spatial_shapes: L pairs (height, width).
        sampling_locations: (B, Q, M, L, P, 2), (x, y) normalised to the level.
        attention_weights: (B, Q, M, L, P).

    Returns:
        (B, Q, M * Dh), of the value's dtype.

    Raises:
        AssertionError: the shapes do not add up to S.
    """
    shapes_hw = as_pairs(value_spatial_shapes)
    num_images, num_cells, num_heads, width = value.shape
    if sum(h * w for h, w in shapes_hw) != num_cells:
        raise AssertionError(f"levels of (height, width) {list(shapes_hw)} do not add up to {num_cells} cells")
    if kernel_serves(value):
        return attend(value, shapes_hw, sampling_locations, attention_weights)
    dtype = torch.float64 if value.dtype == torch.float64 else torch.float32
    inputs = value.to(dtype), sampling_locations.to(dtype), attention_weights.to(dtype)
    return sampled_sum(*inputs, shapes_hw).to(value.dtype)
