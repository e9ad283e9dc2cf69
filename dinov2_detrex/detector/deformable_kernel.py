"""Deformable attention as one operator of torch, `torch.ops.dinov2_detrex.deformable_attention`, for GPUs.

Registered with what it gives without being run (fake) and with its gradient, so that `torch.compile` and `torch.export`
take it as one node. On CUDA it is the Triton kernels of `deformable_triton`; on the CPU a `grid_sample` for every
level, so that an exported program runs there as well, or the same kernels under Triton's interpreter.
"""

import os
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

DTYPES = (torch.float32, torch.float16, torch.bfloat16)  # of the values
LEAST_CAPABILITY = (7, 0)  # of an NVIDIA GPU, for Triton
SCHEMA = "(Tensor value, SymInt[] shapes, Tensor locations, Tensor weights) -> Tensor"
BACKWARD_SCHEMA = (
    "(Tensor grad, Tensor value, SymInt[] shapes, Tensor locations, Tensor weights) -> (Tensor, Tensor, Tensor)"
)


def kernel_serves(value: Tensor) -> bool:
    """Whether the operator is the one to take: on CUDA with Triton, unless the run must repeat itself to the last bit.

    The gradient of the values comes from atomics; with `torch.use_deterministic_algorithms` (`train.deterministic`)
    embedding bags do the work, whose sums have one order. Traces and ONNX get plain indexing.
    """
    if value.device.type != "cuda" or value.dtype not in DTYPES or torch.are_deterministic_algorithms_enabled():
        return False
    if torch.jit.is_tracing() or torch.onnx.is_in_onnx_export():  # pyright: ignore[reportPrivateImportUsage]
        return False
    return _has_triton(value.device)


@cache
def _has_triton(device: torch.device) -> bool:
    if find_spec("triton") is None:
        return False
    seen = torch.cuda.is_available() and not torch.version.hip  # of a GPU that is not there nothing is known
    return not seen or torch.cuda.get_device_capability(device) >= LEAST_CAPABILITY


def attend(value: Tensor, shapes_hw: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor) -> Tensor:
    """The operator, with its gradient; arguments and result as of `multi_scale_deformable_attention`."""
    shapes = [size for pair in shapes_hw for size in pair]
    return deformable_attention(value.contiguous(), shapes, locations.contiguous(), weights.contiguous())


def _pairs(shapes: Sequence[int]) -> list[tuple[int, int]]:
    return list(zip(shapes[::2], shapes[1::2]))


@torch.library.custom_op("dinov2_detrex::deformable_attention", mutates_args=(), schema=SCHEMA)
def deformable_attention(value: Tensor, shapes: list[int], locations: Tensor, weights: Tensor) -> Tensor:
    """Of contiguous tensors; `shapes` is height, width, height, width, ... of the levels."""
    from dinov2_detrex.detector import deformable_triton

    return deformable_triton.forward(value, _pairs(shapes), locations, weights)


@deformable_attention.register_fake
def _shape_of_output(value: Tensor, shapes: list[int], locations: Tensor, weights: Tensor) -> Tensor:
    return value.new_empty((locations.shape[0], locations.shape[1], value.shape[2] * value.shape[3]))


@torch.library.custom_op("dinov2_detrex::deformable_attention_backward", mutates_args=(), schema=BACKWARD_SCHEMA)
def deformable_attention_backward(
    grad: Tensor, value: Tensor, shapes: list[int], locations: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of value, locations and weights, each of its own dtype."""
    from dinov2_detrex.detector import deformable_triton

    return deformable_triton.backward(grad, value, _pairs(shapes), locations, weights)


@deformable_attention_backward.register_fake
def _shapes_of_gradients(grad: Tensor, value: Tensor, shapes: list[int], locations: Tensor, weights: Tensor):
    return torch.empty_like(value), torch.empty_like(locations), torch.empty_like(weights)


def _keep(ctx: Any, inputs: tuple, output: Tensor) -> None:
    value, ctx.shapes, locations, weights = inputs
    ctx.save_for_backward(value, locations, weights)


def _gradients(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    value, locations, weights = ctx.saved_tensors
    grads = deformable_attention_backward(grad.contiguous(), value, ctx.shapes, locations, weights)
    return grads[0], None, *grads[1:]


deformable_attention.register_autograd(_gradients, setup_context=_keep)


def by_grid_sample(value: Tensor, shapes_hw: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor) -> Tensor:
    """The operator as it is usually written; arguments and result as of `multi_scale_deformable_attention`."""
    levels = zip(_maps(value, shapes_hw), _grids(locations))
    sampled = torch.stack([F.grid_sample(maps, grid, align_corners=False) for maps, grid in levels], dim=-2)
    return _heads_joined((sampled * _by_head(weights)).sum((-2, -1)), locations)


def _maps(value: Tensor, shapes_hw: Sequence[tuple[int, int]]) -> list[Tensor]:
    """(B, S, M, Dh) -> of every level (B * M, Dh, H, W)."""
    levels = value.split([h * w for h, w in shapes_hw], dim=1)
    return [cells.permute(0, 2, 3, 1).flatten(0, 1).unflatten(-1, hw) for hw, cells in zip(shapes_hw, levels)]


def _grids(locations: Tensor) -> tuple[Tensor, ...]:
    """(B, Q, M, L, P, 2) in 0..1 -> of every level (B * M, Q, P, 2) in -1..1."""
    return (2 * locations - 1).permute(3, 0, 2, 1, 4, 5).flatten(1, 2).unbind()


def _by_head(weights: Tensor) -> Tensor:
    """(B, Q, M, L, P) -> (B * M, 1, Q, L, P)."""
    return weights.transpose(1, 2).flatten(0, 1)[:, None]


def _heads_joined(out: Tensor, locations: Tensor) -> Tensor:
    """(B * M, Dh, Q) -> (B, Q, M * Dh)."""
    num_images, num_queries, num_heads = locations.shape[:3]
    return out.view(num_images, num_heads * out.shape[1], num_queries).transpose(1, 2).contiguous()


def _gradients_by_grid_sample(
    grad: Tensor, value: Tensor, shapes_hw: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Of `by_grid_sample`, written out: below an operator autograd sees nothing."""
    num_images, num_queries, num_heads, width = *locations.shape[:3], value.shape[-1]
    grad = grad.view(num_images, num_queries, num_heads, width).permute(0, 2, 3, 1).flatten(0, 1)  # B*M Dh Q
    of_maps, of_grids, of_weights = [], [], []
    for maps, grid, share in zip(_maps(value, shapes_hw), _grids(locations), _by_head(weights).unbind(-2)):
        sampled = F.grid_sample(maps, grid, align_corners=False)
        of_weights.append((grad[..., None] * sampled).sum(1))
        of_map, of_grid = torch.ops.aten.grid_sampler_2d_backward(
            grad[..., None] * share, maps, grid, 0, 0, False, (True, True)
        )
        of_maps.append(of_map.unflatten(0, (num_images, num_heads)).flatten(3).permute(0, 3, 1, 2))
        of_grids.append(2 * of_grid)
    grad_value, grad_weights = torch.cat(of_maps, dim=1), torch.stack(of_weights, dim=-2)
    grad_weights = grad_weights.unflatten(0, (num_images, num_heads)).transpose(1, 2)
    grad_locations = torch.stack(of_grids, dim=2).unflatten(0, (num_images, num_heads)).transpose(1, 2)
    return grad_value.contiguous(), grad_locations.contiguous(), grad_weights.contiguous()


def _register_for_cpu() -> None:
    @deformable_attention.register_kernel("cpu")
    def on_cpu(value: Tensor, shapes: list[int], locations: Tensor, weights: Tensor) -> Tensor:
        return by_grid_sample(value.float(), _pairs(shapes), locations.float(), weights.float()).to(value.dtype)

    @deformable_attention_backward.register_kernel("cpu")
    def backward_on_cpu(
        grad: Tensor, value: Tensor, shapes: list[int], locations: Tensor, weights: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        inputs = grad.float(), value.float(), _pairs(shapes), locations.float(), weights.float()
        of_value, of_locations, of_weights = _gradients_by_grid_sample(*inputs)
        return of_value.to(value.dtype), of_locations.to(locations.dtype), of_weights.to(weights.dtype)


if os.environ.get("TRITON_INTERPRET") != "1":
    _register_for_cpu()
