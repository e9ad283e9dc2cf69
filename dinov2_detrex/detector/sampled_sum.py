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

ShapesHW = Sequence[tuple[int, int]]
PIECE = 2**17  # sampling points whose rows and weights, 4 MiB, stay in the caches
GROUP = 2**20  # sampling points whose rows and weights, 32 MiB, are held at once in the backward; or one image's


def sampled_sum(value: Tensor, locations: Tensor, attention: Tensor, shapes_hw: ShapesHW) -> Tensor:
    """The operator in one precision, (B, Q, M * Dh); arguments as of `multi_scale_deformable_attention`."""
    if suits_sparse_backward(value):
        return _RecomputedSum.apply(value, locations, attention, shapes_hw)
    if _is_cut(value):
        return _sum_in_pieces(value, locations, attention, shapes_hw)
    rows, weights = bilinear_rows(locations, attention, shapes_hw)
    return sum_rows(_table(value, shapes_hw).flatten(0, 1), rows, weights).view(len(value), -1, value[0, 0].numel())


def _is_cut(value: Tensor) -> bool:
    """Whether pieces pay: on a CPU, where nothing is kept for a backward."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing():  # pyright: ignore[reportPrivateImportUsage]  # is public
        return False
    return value.device.type == "cpu" and not torch.is_grad_enabled()


def _table(value: Tensor, shapes_hw: ShapesHW) -> Tensor:
    """(B, R, Dh): a row for every (cell of the bordered levels, head)."""
    return bordered(value.flatten(2), shapes_hw).view(len(value), -1, value.shape[-1])


def _sum_in_pieces(value: Tensor, locations: Tensor, attention: Tensor, shapes_hw: ShapesHW) -> Tensor:
    table = _table(value, shapes_hw)
    found = [
        sum_rows(table[images].flatten(0, 1), *bilinear_rows(locations[piece], attention[piece], shapes_hw))
        for piece in _pieces(attention)
        for images in piece[:1]
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
        needs_value, *needs_samples, _ = ctx.needs_input_grad
        inputs = ctx.saved_tensors
        images = max(1, GROUP // max(1, inputs[2][:1].numel()))
        groups = zip(*(tensor.split(images) for tensor in (*inputs, grad)))
        needs = needs_value, any(needs_samples)
        found = [_gradients(v, xy, w, g, ctx.shapes_hw, needs) for v, xy, w, g in groups]
        return *(None if grads[0] is None else torch.cat(grads) for grads in zip(*found)), None


def _gradients(
    value: Tensor,
    locations: Tensor,
    attention: Tensor,
    grad: Tensor,
    shapes_hw: ShapesHW,
    needs: tuple[bool, bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """The gradients of value, locations and attention from that of the sum; None for what is not needed.

    `needs` says whether the value's is, and whether one of the others' is.
    """
    needs_value, needs_samples = needs
    table, grad = _table(value, shapes_hw), grad.reshape(*attention.shape[:3], -1)  # B Q M Dh
    grad_locations, grad_attention = torch.empty_like(locations), torch.empty_like(attention)
    found = []
    for piece in _pieces(attention):
        first, own = piece[0].start * table.shape[1], (locations[piece], attention[piece])
        low, fraction = cells_and_fractions(own[0], shapes_hw)
        rows = corner_rows(low, shapes_hw)
        if needs_value:
            found.append((rows + first if first else rows, corner_shares(fraction, own[1])))
        if needs_samples:
            grad_shares = sampled_product(rows, grad[piece].flatten(0, 2), table[piece[0]].flatten(0, 1))
            grads = share_gradients(grad_shares, fraction, *own, shapes_hw)
            grad_locations[piece], grad_attention[piece] = grads
    grad_value = None
    if needs_value:
        rows, weights = map(torch.cat, zip(*found))
        grad_table = transposed_product(rows, weights, grad.flatten(0, 2), table.shape[0] * table.shape[1])
        grad_value = unbordered(grad_table.view(len(value), -1, value[0, 0].numel()), shapes_hw).view_as(value)
    return (grad_value, grad_locations, grad_attention) if needs_samples else (grad_value, None, None)
