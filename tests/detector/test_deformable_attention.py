"""Deformable attention against `grid_sample`, in every form and dtype."""

import math

import pytest
import torch
import torch.nn.functional as F

from dinov2_detrex.detector import MultiScaleDeformableAttention, multi_scale_deformable_attention, weighted_rows
from dinov2_detrex.detector.sampled_rows import bilinear_rows, bordered

SHAPES_HW = [(5, 7), (3, 4), (1, 2), (1, 1)]


def by_grid_sample(value, shapes_hw, locations, weights):
    """The operator as usually written: one `grid_sample` a level, (B, S, M, Dh) -> (B, Q, M * Dh)."""
    num_images, _, num_heads, width = value.shape
    num_queries = locations.shape[1]
    total = 0.0
    for level, maps in enumerate(value.split([h * w for h, w in shapes_hw], dim=1)):
        maps = maps.permute(0, 2, 3, 1).reshape(num_images * num_heads, width, *shapes_hw[level])
        grid = (2 * locations[:, :, :, level] - 1).transpose(1, 2).flatten(0, 1)  # B*M Q P 2
        sampled = F.grid_sample(maps, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        weight = weights[:, :, :, level].transpose(1, 2).reshape(num_images * num_heads, 1, num_queries, -1)
        total = total + (sampled * weight).sum(-1)
    return total.view(num_images, num_heads * width, num_queries).transpose(1, 2)


def random_inputs(dtype, shapes_hw=SHAPES_HW, num_images=2, num_queries=9, num_heads=3, width=5, num_points=2):
    """Values, locations (far outside the image, too) and weights, all with gradients."""
    generator = torch.Generator().manual_seed(0)
    num_cells, num_levels = sum(h * w for h, w in shapes_hw), len(shapes_hw)

    def rand(*shape):
        return torch.rand(shape, generator=generator, dtype=dtype)

    value = rand(num_images, num_cells, num_heads, width) - 0.5
    locations = rand(num_images, num_queries, num_heads, num_levels, num_points, 2) * 3 - 1
    weights = rand(num_images, num_queries, num_heads, num_levels, num_points)
    return [x.requires_grad_() for x in (value, locations, weights)]


def in_form(form):
    """The operator with one of the forms of the weighted sum."""

    def operator(value, shapes_hw, locations, weights):
        table = bordered(value.flatten(2), shapes_hw).reshape(-1, value.shape[-1])
        rows, row_weights = bilinear_rows(locations, weights, shapes_hw)
        return form(table, rows, row_weights).view(len(value), -1, value.shape[2] * value.shape[3])

    return operator


FORMS = {
    "as the detector takes it": multi_scale_deformable_attention,
    "bag": in_form(weighted_rows.sum_rows_bag),
    "gather": in_form(weighted_rows.sum_rows_gather),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_every_form_equals_grid_sample_in_output_and_gradients(form, dtype):
    inputs = random_inputs(dtype)
    value, locations, weights = inputs
    wanted = by_grid_sample(value, SHAPES_HW, locations, weights)
    output = form(value, SHAPES_HW, locations, weights)
    tolerance = {"rtol": 0, "atol": 1e-5 if dtype == torch.float32 else 1e-12}
    torch.testing.assert_close(output, wanted, **tolerance)
    grad_output = torch.randn_like(wanted)
    grads, wanted_grads = (torch.autograd.grad(x, inputs, grad_output) for x in (output, wanted))
    for grad, wanted_grad in zip(grads, wanted_grads):
        torch.testing.assert_close(grad, wanted_grad, **tolerance)


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_gradients_are_those_of_finite_differences(form):
    inputs = random_inputs(torch.float64, [(2, 3), (1, 2)], num_images=1, num_queries=2, num_heads=2, width=2)
    assert torch.autograd.gradcheck(lambda v, x, w: form(v, [(2, 3), (1, 2)], x, w), inputs)


def test_gradients_at_cell_centres_are_those_of_grid_sample():
    """A fresh layer samples exactly there: its offsets are whole cells."""
    shapes_hw = [(4, 4)]
    value = torch.randn(1, 16, 1, 3, dtype=torch.float64)
    cells = torch.arange(4, dtype=torch.float64)
    grid = torch.stack(torch.meshgrid(cells, cells, indexing="xy"), -1).view(1, 16, 1, 1, 1, 2)
    locations = ((grid + 0.5) / 4).requires_grad_()
    weights = torch.ones(1, 16, 1, 1, 1, dtype=torch.float64)
    grads = [
        torch.autograd.grad(operator(value, shapes_hw, locations, weights).sum(), locations)[0]
        for operator in (multi_scale_deformable_attention, by_grid_sample)
    ]
    torch.testing.assert_close(*grads)


def test_half_precision_is_computed_in_float32():
    value, locations, weights = (x.detach() for x in random_inputs(torch.float32))
    half = [x.to(torch.bfloat16) for x in (value, weights)]
    output = multi_scale_deformable_attention(half[0], SHAPES_HW, locations, half[1])
    wanted = by_grid_sample(half[0].float(), SHAPES_HW, locations, half[1].float())
    assert output.dtype == torch.bfloat16
    torch.testing.assert_close(output, wanted.to(torch.bfloat16))


def test_shapes_may_be_a_tensor_or_pairs():
    inputs = random_inputs(torch.float32)
    value, locations, weights = inputs
    torch.testing.assert_close(
        multi_scale_deformable_attention(value, torch.tensor(SHAPES_HW), locations, weights),
        multi_scale_deformable_attention(value, SHAPES_HW, locations, weights),
        rtol=0,
        atol=0,
    )
    with pytest.raises(AssertionError, match="add up to 50 cells"):
        multi_scale_deformable_attention(value, SHAPES_HW[:-1], locations, weights)


@pytest.mark.parametrize("piece", [1, 60, 216, 300])
def test_a_sum_in_pieces_is_the_sum_to_the_bit(piece, monkeypatch):
    value, locations, weights = (x.detach() for x in random_inputs(torch.float32))  # 216 sampling points an image
    whole = multi_scale_deformable_attention(value, SHAPES_HW, locations, weights)
    monkeypatch.setattr("dinov2_detrex.detector.sampled_sum.PIECE", piece)
    with torch.inference_mode():
        assert torch.equal(multi_scale_deformable_attention(value, SHAPES_HW, locations, weights), whole)


def test_points_on_and_beyond_the_border_of_zeros_have_the_gradients_of_grid_sample():
    """A fresh layer samples whole cells outside of the image, where a step inwards changes something."""
    shapes_hw = [(3, 3)]
    value = torch.randn(1, 9, 1, 2, dtype=torch.float64)
    outside = (torch.tensor([-2.0, -1.5, -1.0, 2.5, 3.0, 3.5, torch.nan], dtype=torch.float64) + 0.5) / 3
    locations = torch.stack((outside, torch.full_like(outside, 0.5)), -1).view(1, -1, 1, 1, 1, 2)
    weights = torch.ones(1, len(outside), 1, 1, 1, dtype=torch.float64)
    found, wanted = (
        torch.autograd.grad(operator(value, shapes_hw, points, weights).sum(), points)[0]
        for operator, points in (
            (multi_scale_deformable_attention, locations.clone().requires_grad_()),
            (by_grid_sample, locations.nan_to_num(9.0).requires_grad_()),
        )
    )
    torch.testing.assert_close(found[:, :-1], wanted[:, :-1])
    assert found.isfinite().all() and found[:, 2].any()


def test_nan_locations_neither_crash_nor_touch_other_queries():
    value, locations, weights = (x.detach() for x in random_inputs(torch.float32))
    broken = locations.clone()
    broken[0, 0] = torch.nan
    good, bad = (multi_scale_deformable_attention(value, SHAPES_HW, x, weights) for x in (locations, broken))
    torch.testing.assert_close(bad[:, 1:], good[:, 1:])


def test_a_new_layer_looks_around_itself_in_whole_cells():
    layer = MultiScaleDeformableAttention(embed_dim=32, num_heads=8, num_levels=2, num_points=3)
    offsets = layer.sampling_offsets.bias.detach().view(8, 2, 3, 2)
    diagonal = math.sqrt(0.5) / math.sqrt(0.5)
    directions = [(1, 0), (diagonal, diagonal), (0, 1), (-1, 1), (-1, 0), (-1, -1), (0, -1), (1, -1)]
    for head, direction in enumerate(directions):
        for point in range(3):
            wanted = torch.tensor(direction, dtype=torch.float32).expand(2, 2) * (point + 1)
            torch.testing.assert_close(offsets[head, :, point], wanted, rtol=0, atol=1e-5)
    for parameter in (layer.sampling_offsets.weight, layer.attention_weights.weight, layer.attention_weights.bias):
        assert not parameter.any()


def plain_layer(layer, query, value, query_pos, mask, references, shapes_hw):
    """The layer's six steps, batch first, with `grid_sample`."""
    num_images, num_queries, _ = query.shape
    heads, levels, points = layer.num_heads, layer.num_levels, layer.num_points
    moved = query + query_pos
    projected = layer.value_proj(value).masked_fill(mask[..., None], 0).view(num_images, -1, heads, 8)
    offsets = layer.sampling_offsets(moved).view(num_images, num_queries, heads, levels, points, 2)
    weights = layer.attention_weights(moved).view(num_images, num_queries, heads, -1).softmax(-1)
    locations = torch.empty_like(offsets)
    for level, (height, width) in enumerate(shapes_hw):
        reference = references[:, :, None, level, None]
        if references.shape[-1] == 2:
            step = 1 / torch.tensor([width, height])
        else:
            step = reference[..., 2:] * 0.5 / points
        locations[:, :, :, level] = reference[..., :2] + offsets[:, :, :, level] * step
    sampled = by_grid_sample(projected, shapes_hw, locations, weights.unflatten(-1, (levels, points)))
    return query + layer.output_proj(sampled)


@pytest.mark.parametrize("coordinates", [2, 4])
@pytest.mark.parametrize("batch_first", [True, False])
def test_layer_follows_its_six_steps(coordinates, batch_first):
    torch.manual_seed(0)
    shapes_hw = [(4, 6), (2, 3)]
    layer = MultiScaleDeformableAttention(24, 3, 2, 2, dropout=0.0, batch_first=batch_first)
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    query, query_pos = torch.randn(2, 2, 5, 24)
    value, mask, references = torch.randn(2, 30, 24), torch.rand(2, 30) < 0.3, torch.rand(2, 5, 2, coordinates)
    wanted = plain_layer(layer, query, value, query_pos, mask, references, shapes_hw)
    inputs = [x if batch_first else x.transpose(0, 1) for x in (query, value, query_pos)]
    output = layer(
        inputs[0],
        value=inputs[1],
        query_pos=inputs[2],
        key_padding_mask=mask,
        reference_points=references,
        spatial_shapes=torch.tensor(shapes_hw),
    )
    torch.testing.assert_close(output if batch_first else output.transpose(0, 1), wanted, rtol=0, atol=1e-5)


def test_wrong_widths_and_references_are_refused():
    with pytest.raises(ValueError, match="multiple of num_heads=8"):
        MultiScaleDeformableAttention(embed_dim=30, num_heads=8)
    with pytest.warns(UserWarning, match="power of two"):
        layer = MultiScaleDeformableAttention(embed_dim=24, num_heads=2, num_levels=1)
    with pytest.raises(ValueError, match="3 coordinates"):
        query = torch.rand(4, 1, 24)
        layer(query, reference_points=torch.rand(1, 4, 1, 3), spatial_shapes=[(2, 2)])


@pytest.mark.parametrize("piece", [2**17, 500, 216, 60, 1])
@pytest.mark.parametrize("needed", [(True, True, True), (False, True, True), (True, False, False)])
def test_the_operator_keeps_its_inputs_alone_and_has_the_gradients_of_grid_sample(needed, piece, monkeypatch):
    monkeypatch.setattr("dinov2_detrex.detector.sampled_sum.PIECE", piece)  # an image has 216 sampling points
    inputs = [x.detach().requires_grad_(need) for x, need in zip(random_inputs(torch.float64), needed)]
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.shape) or t, lambda t: t):
        output = multi_scale_deformable_attention(inputs[0], SHAPES_HW, *inputs[1:])
    assert set(kept) == {x.shape for x in inputs}
    wanted = by_grid_sample(inputs[0], SHAPES_HW, *inputs[1:])
    torch.testing.assert_close(output, wanted)
    leaves = [x for x in inputs if x.requires_grad]
    grads, wanted_grads = (torch.autograd.grad(x.square().sum(), leaves) for x in (output, wanted))
    torch.testing.assert_close(grads, wanted_grads)
