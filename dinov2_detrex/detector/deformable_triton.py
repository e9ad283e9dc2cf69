"""Deformable attention on a GPU, forward and backward, without a table of rows or weights in between: Triton kernels.

A row n is one head of one query, N = Q * M of them in every image, with head n % M; a sample is one of its L * P
points. All sums are taken in float32, whatever the inputs are; offsets are 64 bit wide. `deformable_kernel` makes an
operator of torch from these.

The gradient of the values is added up by atomics, in an order that differs from run to run in the last digits; all else
repeats itself exactly.

With TRITON_INTERPRET=1 in the environment before Triton is imported, all of it runs on the CPU, slowly.
"""

# pyright: reportOperatorIssue=false
# (Triton's own types make a tuple possible where a kernel has a tensor)

import os
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
BLOCKS = ((16, 4), (32, 4), (8, 2), (64, 8), (32, 8), (16, 2), (4, 1))  # (rows of a program, warps); the first is right


def _candidates() -> list[Any]:
    """What is tried for every size; the interpreter cannot time anything and takes the first."""
    configs = [triton.Config({"BLOCK_ROWS": rows}, num_warps=warps) for rows, warps in BLOCKS]
    return configs[:1] if INTERPRETED else configs


@triton.jit
def _cells_before(location, size):
    """A coordinate as the cell whose centre lies before it, -1..size, the way to the next one, and if it is inside."""
    position = location * size - 0.5
    inside = (position >= -1.0) & (position <= size)  # False for NaN
    position = tl.where(inside, position, -1.0)
    low = tl.floor(position)
    return low.to(tl.int64), position - low, inside


@triton.jit
def _corner(start, x, y, width, height, exists):
    """Number of a cell in its image, and whether it is one: what lies outside of its level is zero."""
    valid = exists & (x >= 0) & (x < width) & (y >= 0) & (y < height)
    return start + y * width + x, valid


@triton.jit
def _number(address, exists):
    """float32, 0 where there is none."""
    return tl.load(address, mask=exists, other=0.0).to(tl.float32)


@triton.jit
def _place(location, width, height, exists):
    """Column and row of the upper left of the four cells around a location, the ways to the next, and if it counts."""
    x, right, inside_x = _cells_before(_number(location, exists), width)
    y, lower, inside_y = _cells_before(_number(location + 1, exists), height)
    return x, right, y, lower, exists & inside_x & inside_y


@triton.jit
def _level(levels, level):
    """Height, width and first cell of a level."""
    return tl.load(levels + 3 * level), tl.load(levels + 3 * level + 1), tl.load(levels + 3 * level + 2)


@triton.jit
def _read(values, cell, valid, stride, in_width):
    """(rows, width), float32: a head's values of one cell for every row."""
    mask = valid[:, None] & in_width[None, :]
    return tl.load(values + cell[:, None] * stride, mask=mask, other=0.0).to(tl.float32)


@triton.autotune(configs=_candidates(), key=["size_class", "HEADS", "WIDTH", "LEVELS", "POINTS"])
@triton.jit
def _forward(
    value, levels, locations, weights, out, num_cells, num_rows, size_class,
    HEADS: tl.constexpr, WIDTH: tl.constexpr, LEVELS: tl.constexpr, POINTS: tl.constexpr,
    COLUMNS: tl.constexpr, BLOCK_ROWS: tl.constexpr,
):  # fmt: skip
    """out[b, n] = sum over samples of weight * (four cells around the location, bilinear)."""
    image = tl.program_id(1).to(tl.int64)
    row = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    column = tl.arange(0, COLUMNS)
    exists, in_width = row < num_rows, column < WIDTH
    stride = HEADS * WIDTH
    values = value + image * num_cells * stride + (row % HEADS)[:, None] * WIDTH + column[None, :]
    first_sample = (image * num_rows + row) * (LEVELS * POINTS)
    total = tl.zeros((BLOCK_ROWS, COLUMNS), tl.float32)
    for level in range(LEVELS):
        height, width, start = _level(levels, level)
        for point in range(POINTS):
            sample = first_sample + level * POINTS + point
            weight = _number(weights + sample, exists)
            x, right, y, lower, inside = _place(locations + 2 * sample, width, height, exists)
            cell, valid = _corner(start, x, y, width, height, inside)
            total += (weight * (1 - right) * (1 - lower))[:, None] * _read(values, cell, valid, stride, in_width)
            cell, valid = _corner(start, x + 1, y, width, height, inside)
            total += (weight * right * (1 - lower))[:, None] * _read(values, cell, valid, stride, in_width)
            cell, valid = _corner(start, x, y + 1, width, height, inside)
            total += (weight * (1 - right) * lower)[:, None] * _read(values, cell, valid, stride, in_width)
            cell, valid = _corner(start, x + 1, y + 1, width, height, inside)
            total += (weight * right * lower)[:, None] * _read(values, cell, valid, stride, in_width)
    mask = exists[:, None] & in_width[None, :]
    to = out + (image * num_rows + row)[:, None] * WIDTH + column[None, :]
    tl.store(to, total.to(out.dtype.element_ty), mask=mask)


@triton.jit
def _give_back(values, grad_values, cell, valid, stride, in_width, share, grad):
    """Add a corner's share of the rows' gradient to its cell; the product of that gradient and the cell's values."""
    mask = valid[:, None] & in_width[None, :]
    tl.atomic_add(grad_values + cell[:, None] * stride, share[:, None] * grad, mask=mask, sem="relaxed")
    return tl.sum(_read(values, cell, valid, stride, in_width) * grad, axis=1)


@triton.autotune(
    configs=_candidates(),
    key=["size_class", "HEADS", "WIDTH", "LEVELS", "POINTS"],
    reset_to_zero=["grad_value"],
)
@triton.jit
def _backward(
    grad_out, value, levels, locations, weights, grad_value, grad_locations, grad_weights,
    num_cells, num_rows, size_class,
    HEADS: tl.constexpr, WIDTH: tl.constexpr, LEVELS: tl.constexpr, POINTS: tl.constexpr,
    COLUMNS: tl.constexpr, BLOCK_ROWS: tl.constexpr,
):  # fmt: skip
    """Gradients of values (float32, added up), locations and weights."""
    image = tl.program_id(1).to(tl.int64)
    row = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    column = tl.arange(0, COLUMNS)
    exists, in_width = row < num_rows, column < WIDTH
    stride = HEADS * WIDTH
    offset = image * num_cells * stride + (row % HEADS)[:, None] * WIDTH + column[None, :]
    values, grad_values = value + offset, grad_value + offset
    mask = exists[:, None] & in_width[None, :]
    bag = image * num_rows + row
    grad = tl.load(grad_out + bag[:, None] * WIDTH + column[None, :], mask=mask, other=0.0).to(tl.float32)
    for level in range(LEVELS):
        height, width, start = _level(levels, level)
        for point in range(POINTS):
            sample = bag * (LEVELS * POINTS) + level * POINTS + point
            weight = _number(weights + sample, exists)
            x, right, y, lower, inside = _place(locations + 2 * sample, width, height, exists)
            left, upper = 1 - right, 1 - lower
            cell, valid = _corner(start, x, y, width, height, inside)
            product_00 = _give_back(values, grad_values, cell, valid, stride, in_width, weight * left * upper, grad)
            cell, valid = _corner(start, x + 1, y, width, height, inside)
            product_01 = _give_back(values, grad_values, cell, valid, stride, in_width, weight * right * upper, grad)
            cell, valid = _corner(start, x, y + 1, width, height, inside)
            product_10 = _give_back(values, grad_values, cell, valid, stride, in_width, weight * left * lower, grad)
            cell, valid = _corner(start, x + 1, y + 1, width, height, inside)
            product_11 = _give_back(values, grad_values, cell, valid, stride, in_width, weight * right * lower, grad)
            grad_weight = upper * (left * product_00 + right * product_01)
            grad_weight += lower * (left * product_10 + right * product_11)
            slope_x = upper * (product_01 - product_00) + lower * (product_11 - product_10)
            slope_y = left * (product_10 - product_00) + right * (product_11 - product_01)
            grad_x, grad_y = weight * slope_x * width, weight * slope_y * height
            tl.store(grad_weights + sample, grad_weight.to(grad_weights.dtype.element_ty), mask=exists)
            tl.store(grad_locations + 2 * sample, grad_x.to(grad_locations.dtype.element_ty), mask=exists)
            tl.store(grad_locations + 2 * sample + 1, grad_y.to(grad_locations.dtype.element_ty), mask=exists)


def forward(value: Tensor, shapes_hw: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor) -> Tensor:
    """(B, Q, M * Dh), of the value's dtype; arguments as of `multi_scale_deformable_attention`, all contiguous."""
    out = value.new_empty((*locations.shape[:2], value.shape[2] * value.shape[3]))
    if out.numel():
        table = level_table(tuple(shapes_hw), value.device)
        with torch.cuda.device_of(value):  # Triton launches on the current one
            _forward[_grid(locations)](value, table, locations, weights, out, **_sizes(value, locations))
    return out


def backward(
    grad: Tensor, value: Tensor, shapes_hw: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of value, locations and weights for that of the output; all tensors contiguous."""
    grad_value = torch.zeros_like(value, dtype=torch.float32)
    grad_locations, grad_weights = torch.empty_like(locations), torch.empty_like(weights)
    if locations.numel():
        table = level_table(tuple(shapes_hw), value.device)
        inputs = (grad, value, table, locations, weights)
        with torch.cuda.device_of(value):
            _backward[_grid(locations)](*inputs, grad_value, grad_locations, grad_weights, **_sizes(value, locations))
    return grad_value.to(value.dtype), grad_locations, grad_weights


def _grid(locations: Tensor):
    num_images, num_queries, num_heads = locations.shape[:3]
    return lambda meta: (triton.cdiv(num_queries * num_heads, meta["BLOCK_ROWS"]), num_images)


def _sizes(value: Tensor, locations: Tensor) -> dict[str, int]:
    """What a kernel has to know of its tensors; sizes that differ by less than a factor of two are tuned once."""
    num_images, num_queries, num_heads, num_levels, num_points, _ = locations.shape
    width, num_rows = value.shape[3], num_queries * num_heads
    sizes = {"num_cells": value.shape[1], "num_rows": num_rows, "HEADS": num_heads}
    sizes |= {"WIDTH": width, "LEVELS": num_levels, "POINTS": num_points, "COLUMNS": triton.next_power_of_2(width)}
    return sizes | {"size_class": (num_images * num_rows).bit_length()}


@lru_cache(maxsize=256)
def level_table(shapes_hw: tuple[tuple[int, int], ...], device: torch.device) -> Tensor:
    """(L, 3), int64: height, width and first cell of every level; sent once, without waiting for the device."""
    starts = [sum(h * w for h, w in shapes_hw[:level]) for level in range(len(shapes_hw))]
    table = torch.tensor([(*hw, start) for hw, start in zip(shapes_hw, starts)], dtype=torch.int64)
    return table.to(device, non_blocking=True)
