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
    num_images, num_queries, num_heads = locations.shape[:3]
    grids = (2 * locations - 1).permute(3, 0, 2, 1, 4, 5).flatten(1, 2)  # L B*M Q P 2
    sampled = []
    for hw, cells, grid in zip(shapes_hw, value.split([h * w for h, w in shapes_hw], dim=1), grids):
        maps = cells.permute(0, 2, 3, 1).reshape(num_images * num_heads, value.shape[-1], *hw)
        sampled.append(F.grid_sample(maps, grid, mode="bilinear", padding_mode="zeros", align_corners=False))
    share = weights.transpose(1, 2).reshape(num_images * num_heads, 1, num_queries, -1)
    out = (torch.cat(sampled, dim=-1) * share).sum(-1)  # B*M Dh Q
    return out.view(num_images, num_heads * value.shape[-1], num_queries).transpose(1, 2).contiguous()


def _register_for_cpu() -> None:
    @deformable_attention.register_kernel("cpu")
    def on_cpu(value: Tensor, shapes: list[int], locations: Tensor, weights: Tensor) -> Tensor:
        return by_grid_sample(value.float(), _pairs(shapes), locations.float(), weights.float()).to(value.dtype)

    @deformable_attention_backward.register_kernel("cpu")
    def backward_on_cpu(
        grad: Tensor, value: Tensor, shapes: list[int], locations: Tensor, weights: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        inputs = [x.detach().float().requires_grad_() for x in (value, locations, weights)]
        with torch.enable_grad():
            out = by_grid_sample(inputs[0], _pairs(shapes), *inputs[1:])
        grads = torch.autograd.grad(out, inputs, grad.float())
        grad_value, grad_locations, grad_weights = (g.to(x.dtype) for g, x in zip(grads, (value, locations, weights)))
        return grad_value, grad_locations, grad_weights


if os.environ.get("TRITON_INTERPRET") != "1":
    _register_for_cpu()
