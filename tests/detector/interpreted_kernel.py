"""The Triton kernels under Triton's interpreter, against the reference; `test_deformable_kernel.py` runs this file.

It takes a process of its own: Triton decides at its import whether to interpret.
"""

import pytest
import torch
from test_deformable_attention import SHAPES_HW, random_inputs

from dinov2_detrex.detector import multi_scale_deformable_attention
from dinov2_detrex.detector.deformable_kernel import attend, deformable_attention, deformable_attention_backward

pytest.importorskip("triton", reason="Triton comes with torch for CUDA")

CASES = {
    "odd widths": dict(),
    "one of everything": dict(shapes_hw=[(1, 1)], num_images=1, num_queries=1, num_heads=1, width=1, num_points=1),
    "more rows than a block": dict(shapes_hw=[(3, 2)], num_queries=40, num_heads=2, width=8, num_points=1),
    "levels without cells": dict(shapes_hw=[(2, 3), (0, 4), (0, 0), (2, 1)], num_queries=4),
}


def with_gradients(operator, inputs, shapes_hw, grad_dtype=torch.float32):
    """The output, and the gradients for a fixed gradient of it, rounded to a dtype."""
    inputs = [x.detach().requires_grad_() for x in inputs]
    output = operator(inputs[0], shapes_hw, *inputs[1:])
    grad = torch.linspace(-1, 1, output.numel(), dtype=torch.float64).view(output.shape)
    return output.detach(), *torch.autograd.grad(output, inputs, grad.to(grad_dtype).to(output.dtype))


def exact(inputs, shapes_hw, grad_dtype=torch.float32):
    """The same from the reference in float64."""
    return with_gradients(multi_scale_deformable_attention, [x.double() for x in inputs], shapes_hw, grad_dtype)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_output_and_gradients_are_the_references(case):
    inputs = random_inputs(torch.float32, **case)
    shapes_hw = case.get("shapes_hw", SHAPES_HW)
    for value, wanted in zip(with_gradients(attend, inputs, shapes_hw), exact(inputs, shapes_hw)):
        assert value.dtype == torch.float32 and value.shape == wanted.shape
        torch.testing.assert_close(value.double(), wanted, rtol=0, atol=2e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("all_half", [True, False], ids=["all half", "values and weights half"])
def test_half_precision_is_off_by_the_rounding_of_the_results_alone(dtype, all_half):
    value, locations, weights = random_inputs(torch.float32, num_queries=5)
    inputs = [value.to(dtype), locations.to(dtype) if all_half else locations, weights.to(dtype)]
    found = with_gradients(attend, inputs, SHAPES_HW, dtype)
    assert [x.dtype for x in found] == [dtype, *(x.dtype for x in inputs)]
    for result, wanted in zip(found, exact(inputs, SHAPES_HW, dtype)):
        rounding = torch.finfo(result.dtype).eps
        torch.testing.assert_close(result.double(), wanted, rtol=rounding, atol=2e-5)


@pytest.mark.parametrize("case", [dict(num_queries=0), dict(num_images=0)], ids=["no query", "no image"])
def test_nothing_to_attend_with_gives_nothing(case):
    value, locations, weights = random_inputs(torch.float32, **case)
    output, *grads = with_gradients(attend, [value, locations, weights], SHAPES_HW)
    assert output.numel() == 0 and not grads[0].any()
    assert [x.shape for x in grads] == [value.shape, locations.shape, weights.shape]


def test_borders_and_cell_centres_are_the_references():
    """At cell centres the gradient jumps; at -1 and at the size of the level it stops, and may be either side's."""
    shapes_hw = [(4, 8)]
    edges = torch.tensor([-1.0, -0.5, 0.0, 1.0, 6.5, 7.0, 7.5, 8.0, 8.5, -1.5])
    x, y = torch.meshgrid(edges, edges.clamp(max=4), indexing="ij")
    cells = torch.stack((x, y), -1).view(-1, 2)
    stops = ((cells == -1) | (cells == torch.tensor([8.0, 4.0]))).any(-1)
    locations = ((cells + 0.5) / torch.tensor([8.0, 4.0])).view(1, -1, 1, 1, 1, 2)
    inputs = [torch.randn(1, 32, 1, 4), locations, torch.ones(1, 100, 1, 1, 1)]
    found, wanted = with_gradients(attend, inputs, shapes_hw), exact(inputs, shapes_hw)
    for index, (value, reference) in enumerate(zip(found, wanted)):
        where = (slice(None), ~stops) if index == 2 else ()
        torch.testing.assert_close(value.double()[where], reference[where], rtol=0, atol=2e-5)


def test_nan_and_infinite_locations_give_zero_and_touch_nothing_else():
    value, locations, weights = (x.detach() for x in random_inputs(torch.float32, num_queries=3))
    locations[0, 0, :, :, 0] = torch.nan
    locations[0, 0, :, :, 1] = torch.inf
    found = with_gradients(attend, [value, locations, weights], SHAPES_HW)
    assert not found[0][0, 0].any() and all(x.isfinite().all() for x in found)


def test_operators_are_what_torch_expects_of_them():
    inputs = random_inputs(torch.float32, [(2, 3), (1, 2)], num_images=1, num_queries=2, num_heads=2, width=4)
    shapes = [2, 3, 1, 2]
    torch.library.opcheck(deformable_attention, (inputs[0], shapes, *inputs[1:]))
    inputs = [x.detach() for x in inputs]
    torch.library.opcheck(deformable_attention_backward, (torch.ones(1, 2, 8), inputs[0], shapes, *inputs[1:]))


def test_inputs_need_not_be_contiguous():
    value, locations, weights = random_inputs(torch.float32, num_queries=3)
    moved = [x.detach().transpose(0, 1).contiguous().transpose(0, 1) for x in (value, locations, weights)]
    for a, b in zip(*(with_gradients(attend, x, SHAPES_HW) for x in (moved, [value, locations, weights]))):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)
