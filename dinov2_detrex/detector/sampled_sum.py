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
    share_gradients,
    unbordered,
)
from dinov2_detrex.detector.weighted_rows import sampled_product, suits_sparse_backward, sum_rows, transposed_product
from dinov2_detrex.runtime.compiling import is_traced

ShapesHW = Sequence[tuple[int, int]]
PIECE = 2**17  # sampling points whose rows and weights, 4 MiB, stay in the caches
GROUP = 2**20  # sampling points whose rows and weights, 32 MiB, are held at once in the backward; or one image's


def sampled_sum(value: Tensor, locations: Tensor, attention: Tensor, shapes_hw: ShapesHW) -> Tensor:
    """The operator in one precision, (B, Q, M * Dh); arguments as of `multi_scale_deformable_attention`."""
    if suits_sparse_backward(value):
        return _RecomputedSum.apply(value, locations, attention, shapes_hw)
    if value.device.type == "cpu" and not torch.is_grad_enabled() and not is_traced():
        return _sum_in_pieces(value, locations, attention, shapes_hw)
    rows, weights = bilinear_rows(locations, attention, shapes_hw)
    return sum_rows(_table(value, shapes_hw).flatten(0, 1), rows, weights).view(len(value), -1, value[0, 0].numel())


def _table(value: Tensor, shapes_hw: ShapesHW) -> Tensor:
    """(B, R, Dh): a row for every (cell of the bordered levels, head)."""
    return bordered(value.flatten(2), shapes_hw).view(len(value), -1, value.shape[-1])


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
    samples = max(1, attention[:1].numel())  # of an image
    images, queries = max(1, PIECE // samples), max(1, num_queries * PIECE // samples)
    for image in range(0, num_images, images):
        for query in range(0, max(1, num_queries), queries):
            yield slice(image, image + images), slice(query, query + queries)


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
        images = max(1, GROUP // max(1, inputs[2][:1].numel()))
        groups = zip(*(tensor.split(images) for tensor in (*inputs, grad)))
        found = [_gradients(value, xy, weights, own, ctx.shapes_hw) for value, xy, weights, own in groups]
        return *map(torch.cat, zip(*found)), None


def _gradients(
    value: Tensor, locations: Tensor, attention: Tensor, grad: Tensor, shapes_hw: ShapesHW
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of value, locations and attention from that of the sum."""
    table, grad = _table(value, shapes_hw), grad.reshape(*attention.shape[:3], -1)  # B Q M Dh
    grad_locations, grad_attention = torch.empty_like(locations), torch.empty_like(attention)
    found = []
    for piece in _pieces(attention):
        low, fraction = cells_and_fractions(locations[piece], shapes_hw)
        rows = corner_rows(low, shapes_hw)  # of the piece's own images
        grad_shares = sampled_product(rows, grad[piece].flatten(0, 2), table[piece[0]].flatten(0, 1))
        grads = share_gradients(grad_shares, fraction, locations[piece], attention[piece], shapes_hw)
        grad_locations[piece], grad_attention[piece] = grads
        found.append((rows.add_(piece[0].start * table.shape[1]), corner_shares(fraction, attention[piece])))
    rows, weights = map(torch.cat, zip(*found))
    grad_table = transposed_product(rows, weights, grad.flatten(0, 2), table.shape[0] * table.shape[1])
    grad_value = unbordered(grad_table.view(len(value), -1, value[0, 0].numel()), shapes_hw)
    return grad_value.view_as(value), grad_locations, grad_attention
