"""How is deformable attention summed up on a CPU, forward and backward, in little memory and within the caches?

Shapes as in `deformable_attention`: B images, Q queries, M heads of width Dh, L levels, P points. Rows and weights
(`sampled_rows`) are five times as much as the inputs, so they are made for a piece of the queries, used and left; the
backward makes them again.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from dinov2_detrex.detector.sampled_rows import (
    bilinear_rows,
    bordered,
    cells_and_fractions,
    corner_rows,
    corner_shares,
    inside_borders,
    share_gradients,
)
from dinov2_detrex.detector.weighted_rows import sampled_product, suits_sparse_backward, sum_rows, transposed_product
from dinov2_detrex.runtime.compiling import is_traced

ShapesHW = Sequence[tuple[int, int]]
PIECE = 2**17  # sampling points whose rows and weights, 4 MiB, stay in the caches


def sampled_sum(value: Tensor, locations: Tensor, attention: Tensor, shapes_hw: ShapesHW) -> Tensor:
    """The operator in one precision, (B, Q, M * Dh); arguments as of `multi_scale_deformable_attention`."""
    if suits_sparse_backward(value):
        return _RecomputedSum.apply(value, locations, attention, shapes_hw)
    if value.device.type == "cpu" and not torch.is_grad_enabled() and not is_traced():
        return _sum_in_pieces(value, locations, attention, shapes_hw)
    rows, weights = bilinear_rows(locations, attention, shapes_hw)
    table = bordered(value.flatten(2), shapes_hw).view(-1, value.shape[-1])
    return sum_rows(table, rows, weights).view(len(value), -1, value[0, 0].numel())


def _table(value: Tensor, shapes_hw: ShapesHW) -> Tensor:
    """(B, R, Dh): a row for every (cell of the bordered levels, head); without autograd, which takes a copy less."""
    table = value.new_zeros(len(value), sum((h + 3) * (w + 3) for h, w in shapes_hw), value[0, 0].numel())
    for inside, cells in zip(inside_borders(table, shapes_hw), _levels(value, shapes_hw)):
        inside.copy_(cells)
    return table.view(len(value), -1, value.shape[-1])


def _levels(value: Tensor, shapes_hw: ShapesHW) -> list[Tensor]:
    """Every level of (B, S, M, Dh) as (B, H_l, W_l, M * Dh)."""
    levels = value.flatten(2).split([h * w for h, w in shapes_hw], dim=1)
    return [x.unflatten(1, hw) for x, hw in zip(levels, shapes_hw)]


def _sum_in_pieces(value: Tensor, locations: Tensor, attention: Tensor, shapes_hw: ShapesHW) -> Tensor:
    table = _table(value, shapes_hw)
    found = [
        sum_rows(table[piece[0]].flatten(0, 1), *bilinear_rows(locations[piece], attention[piece], shapes_hw))
        for piece in _pieces(attention)
    ]
    return torch.cat(found).view(len(value), -1, value[0, 0].numel())


def _pieces(attention: Tensor) -> Iterator[tuple[slice, slice]]:
    """Parts of (B, Q, M, L, P) as images and queries, in order: some whole images, or some queries of one image."""
    num_images, num_queries = attention.shape[:2]
    images = _images_at_once(attention)
    queries = max(1, num_queries * PIECE // _samples_of_image(attention))
    for image in range(0, num_images, images):
        for query in range(0, max(1, num_queries), queries):
            yield slice(image, image + images), slice(query, query + queries)


def _images_at_once(attention: Tensor) -> int:
    return max(1, PIECE // _samples_of_image(attention))


def _samples_of_image(attention: Tensor) -> int:
    return max(1, attention[:1].numel())


class _RecomputedSum(torch.autograd.Function):
    """The operator that keeps its inputs alone for the backward."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, locations: Tensor, attention: Tensor, shapes_hw: ShapesHW) -> Tensor:
        ctx.save_for_backward(value, locations, attention)
        ctx.shapes_hw = shapes_hw
        return _sum_in_pieces(value, locations, attention, shapes_hw)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        inputs = ctx.saved_tensors
        images = _images_at_once(inputs[2])
        grads = [tensor.new_empty(tensor.shape) for tensor in inputs]
        groups = (zip(*(tensor.split(images) for tensor in tensors)) for tensors in (grads, (*inputs, grad)))
        for filled, (value, locations, attention, grad_out) in zip(*groups):
            _fill_gradients(filled, value, locations, attention, grad_out, ctx.shapes_hw)
        return *grads, None


def _fill_gradients(
    grads: Sequence[Tensor], value: Tensor, locations: Tensor, attention: Tensor, grad: Tensor, shapes_hw: ShapesHW
) -> None:
    """Write into `grads` the gradients of value, locations and attention from that of the sum; of some images."""
    table, grad = _table(value, shapes_hw), grad.reshape(*attention.shape[:3], -1)  # B Q M Dh
    found = []
    for piece in _pieces(attention):
        low, fraction = cells_and_fractions(locations[piece], shapes_hw)
        rows = corner_rows(low, shapes_hw)
        grad_shares = sampled_product(rows, grad[piece].flatten(0, 2), table[piece[0]].flatten(0, 1))
        grads[1][piece], grads[2][piece] = share_gradients(grad_shares, fraction, attention[piece], shapes_hw)
        found.append((rows, corner_shares(fraction, attention[piece])))
    rows, weights = found[0] if len(found) == 1 else map(torch.cat, zip(*found))
    grad_table = transposed_product(rows, weights, grad.flatten(0, 2), table.shape[0] * table.shape[1])
    grad_table = grad_table.view(len(value), -1, value[0, 0].numel())
    for cells, inside in zip(_levels(grads[0], shapes_hw), inside_borders(grad_table, shapes_hw)):
        cells.copy_(inside)
