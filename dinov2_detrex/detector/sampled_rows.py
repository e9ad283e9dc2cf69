"""Which values lie around a sampling point of deformable attention, and with which shares?

Shapes as in `deformable_attention`: B images, Q queries, M heads, L levels, P points; locations are (x, y) normalised
to the level. Every level is surrounded with zeros, so that no point needs a case of its own.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Shapes = Tensor | Sequence[tuple[int, int]]  # (height, width) of every level
Pair = tuple[Tensor, Tensor]  # of x and of y


def bordered(value: Tensor, shapes_hw: Sequence[tuple[int, int]]) -> Tensor:
    """Surround every level with zeros: one cell before, two behind, so that no sampled corner falls outside.

    (B, sum H_l W_l, C) -> (B, sum (H_l + 3)(W_l + 3), C).
    """
    levels = value.split([h * w for h, w in shapes_hw], dim=1)
    padded = [F.pad(x.unflatten(1, hw), (0, 0, 1, 2, 1, 2)).flatten(1, 2) for x, hw in zip(levels, shapes_hw)]
    return torch.cat(padded, dim=1)


def inside_borders(bordered_value: Tensor, shapes_hw: Sequence[tuple[int, int]]) -> list[Tensor]:
    """Views (B, H_l, W_l, C) of every level without the zeros of `bordered`: of (B, sum (H_l + 3)(W_l + 3), C)."""
    levels = bordered_value.split([(h + 3) * (w + 3) for h, w in shapes_hw], dim=1)
    return [x.unflatten(1, (h + 3, w + 3))[:, 1:-2, 1:-2] for x, (h, w) in zip(levels, shapes_hw)]


def bilinear_rows(locations: Tensor, attention: Tensor, shapes_hw: Sequence[tuple[int, int]]) -> tuple[Tensor, Tensor]:
    """The four table rows around every sampling point, and their shares of its attention weight.

    The table has a row for every (image, cell of the bordered levels, head), in this order.

    Args:
        locations: (B, Q, M, L, P, 2).
        attention: (B, Q, M, L, P).

    Returns:
        rows and weights, both (B * Q * M, 4 * L * P).
    """
    low, fraction = cells_and_fractions(locations, shapes_hw)
    return corner_rows(low, shapes_hw), corner_shares(fraction, attention)


def cells_and_fractions(locations: Tensor, shapes_hw: Sequence[tuple[int, int]]) -> tuple[Pair, Pair]:
    """Points (B, Q, M, L, P, 2) as the cells whose centres lie before them, and the ways from there to the next ones.

    Returns:
        cells -1..size and fractions 0..1, each x and y, (B, Q, M, L * P).
    """
    width, height = _sizes_of_points(locations, shapes_hw)
    low_x, x = _split(locations[..., 0].flatten(3), width)
    low_y, y = _split(locations[..., 1].flatten(3), height)
    return (low_x, low_y), (x, y)


def _sizes_of_points(locations: Tensor, shapes_hw: Sequence[tuple[int, int]]) -> Pair:
    """(L * P,) each: width and height of every point's level."""
    width, height = sizes_wh(shapes_hw, locations).t().repeat_interleave(locations.shape[4], dim=1)
    return width, height


def _split(location: Tensor, size: Tensor) -> tuple[Tensor, Tensor]:
    """A coordinate as the cell whose centre lies before it, -1..size, and the fraction of the way to the next one.

    What lies beyond the border of zeros, and NaN, is put where both cells are zeros, behind the last one: there it has
    no value and no gradient. (Of torch's operators for this, `fmax`, `fmin` and `where` take ten times as long.)
    """
    below = -1.0 - torch.finfo(location.dtype).eps  # the largest number below the border
    cells = F.threshold((location * size - 0.5).nan_to_num(below), below, torch.inf).clamp(max=size)
    low = cells.detach().floor()
    return low, cells - low


def corner_shares(fraction: Pair, attention: Tensor) -> Tensor:
    """The weights (B * Q * M, 4 * L * P) of `bilinear_rows`.

    Args:
        fraction: x and y, each (B, Q, M, L * P).
        attention: (B, Q, M, L, P).
    """
    fraction_x, fraction_y = fraction
    lower = attention.flatten(3) * fraction_y
    upper = attention.flatten(3) - lower
    upper_right, lower_right = upper * fraction_x, lower * fraction_x
    weights = (upper - upper_right, upper_right, lower - lower_right, lower_right)
    return torch.stack(weights, -2).flatten(0, 2).flatten(1)


def share_gradients(
    grad: Tensor, fraction: Pair, attention: Tensor, shapes_hw: Sequence[tuple[int, int]]
) -> tuple[Tensor, Tensor]:
    """The backward of `corner_shares` and of what leads to it; each corner's share is a product of three factors.

    Args:
        grad: (B * Q * M, 4 * L * P), of the weights.
        fraction, attention: as in the forward.

    Returns:
        gradients of locations and of attention. A point beyond the border of zeros has none of its location, because
        all four of its corners are zeros.
    """
    (x, y), (width, height) = fraction, _sizes_of_points(attention, shapes_hw)
    upper_left, upper_right, lower_left, lower_right = grad.view(*x.shape[:3], 4, -1).unbind(3)
    right_above, right_below = upper_right - upper_left, lower_right - lower_left  # for a step to the right
    above, below = right_above.mul(x).add_(upper_left), right_below.mul(x).add_(lower_left)
    down = below.sub_(above)  # for a step down
    weight = attention.flatten(3)
    grad_x = right_below.sub_(right_above).mul_(y).add_(right_above).mul_(weight)
    grad_attention = above.addcmul_(down, y)
    grad_xy = torch.complex(grad_x.mul_(width), down.mul_(weight).mul_(height))  # a tenth of what stacking takes
    return torch.view_as_real(grad_xy).view(*attention.shape, 2), grad_attention.view_as(attention)


@torch.no_grad()
def corner_rows(low: Pair, shapes_hw: Sequence[tuple[int, int]]) -> Tensor:
    """The rows (B * Q * M, 4 * L * P) of `bilinear_rows`: upper left, upper right, lower left, lower right.

    Args:
        low: x and y of the upper left cell, -1..size, each (B, Q, M, L * P).
    """
    num_images, _, num_heads, num_points = low[0].shape
    num_points //= len(shapes_hw)
    low_x, low_y = low
    areas = [(h + 3) * (w + 3) for h, w in shapes_hw]
    num_rows = num_images * sum(areas) * num_heads
    dtype, device = torch.int32 if num_rows < 2**31 else torch.int64, low_x.device
    row_step = _constant([(w + 3) * num_heads for _, w in shapes_hw], dtype, device).repeat_interleave(num_points)
    starts = _constant([sum(areas[:level]) * num_heads for level in range(len(areas))], dtype, device)
    image_starts = torch.arange(num_images, dtype=dtype, device=device) * (sum(areas) * num_heads)
    heads = torch.arange(num_heads, dtype=dtype, device=device)[:, None]
    base = image_starts[:, None, None, None] + heads  # B 1 M 1
    base = base + (starts.repeat_interleave(num_points) + row_step + num_heads)  # of the cell (0, 0) inside the border
    upper_left = (low_y.to(dtype) * row_step).add_(low_x.to(dtype).mul_(num_heads)).add_(base)
    lower_left = upper_left + row_step
    corners = (upper_left, upper_left + num_heads, lower_left, lower_left + num_heads)
    return torch.stack(corners, -2).flatten(0, 2).flatten(1)


def as_pairs(shapes: Shapes) -> Sequence[tuple[int, int]]:
    """Level shapes as pairs of ints; a tensor on a GPU makes the host wait for it."""
    return [(height, width) for height, width in (shapes.tolist() if isinstance(shapes, Tensor) else shapes)]


def sizes_wh(shapes_hw: Sequence[tuple[int, int]], like: Tensor) -> Tensor:
    """(L, 2): width and height of every level, with the dtype and device of `like`."""
    return _constant([(w, h) for h, w in shapes_hw], dtype=like.dtype, device=like.device)


def _constant(values: Sequence[Any], dtype: torch.dtype, device: torch.device) -> Tensor:
    """A small tensor made on the host and sent without waiting for the device."""
    return torch.tensor(values, dtype=dtype).to(device, non_blocking=True)
