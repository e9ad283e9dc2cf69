"""The small layers: names in the state dict, residuals, positions, boxes."""

import math

import pytest
import torch
from torchvision import ops

from dinov2_detrex.detector import (
    FFN,
    MLP,
    MultiheadAttention,
    box_cxcywh_to_xyxy,
    box_iou,
    box_xyxy_to_cxcywh,
    generalized_box_iou,
    get_sine_pos_embed,
    inverse_sigmoid,
)


def random_boxes(count: int) -> torch.Tensor:
    low = torch.rand(count, 2)
    return torch.cat((low, low + torch.rand(count, 2) + 0.01), dim=-1)


def test_box_forms_are_each_others_inverse_and_those_of_torchvision():
    boxes = random_boxes(7).view(7, 1, 4)
    torch.testing.assert_close(box_xyxy_to_cxcywh(boxes), ops.box_convert(boxes, "xyxy", "cxcywh"))
    torch.testing.assert_close(box_cxcywh_to_xyxy(box_xyxy_to_cxcywh(boxes)), boxes)


def test_box_overlaps_are_those_of_torchvision():
    a, b = random_boxes(6), random_boxes(9)
    iou, union = box_iou(a, b)
    torch.testing.assert_close(iou, ops.box_iou(a, b), rtol=0, atol=1e-3)  # 1e-6 is added to areas from 1e-4 on
    torch.testing.assert_close(union, ops.box_area(a)[:, None] + ops.box_area(b) - iou * union, rtol=0, atol=1e-5)
    torch.testing.assert_close(generalized_box_iou(a, b), ops.generalized_box_iou(a, b), rtol=0, atol=2e-3)
    assert generalized_box_iou(a[:0], b).shape == (0, 9)


@pytest.mark.parametrize("wrong", [[2.0, 0.0, 1.0, 1.0], [math.nan, 0.0, 1.0, 1.0]])
def test_overlap_of_invalid_boxes_says_how_many_and_on_which_side(wrong):
    good, bad = random_boxes(3), torch.cat((random_boxes(2), torch.tensor([wrong])))
    with pytest.raises(AssertionError, match="1 of 3 second boxes"):
        generalized_box_iou(good, bad)


def test_inverse_sigmoid_inverts_and_is_limited():
    x = torch.linspace(0.01, 0.99, 9)
    torch.testing.assert_close(inverse_sigmoid(x).sigmoid(), x)
    limits = inverse_sigmoid(torch.tensor([-1.0, 0.0, 1.0, 2.0]))
    torch.testing.assert_close(limits.abs(), torch.full((4,), math.log(1e3)), rtol=1e-3, atol=0)


def test_sine_code_of_a_box_is_y_x_w_h():
    box = torch.tensor([[[0.1, 0.2, 0.3, 0.4]]])
    code = get_sine_pos_embed(box, num_pos_feats=6)[0, 0]
    for block, value in enumerate((0.2, 0.1, 0.3, 0.4)):
        for i in range(6):
            phase = value * 2 * math.pi / 10000 ** (2 * (i // 2) / 6)
            wanted = math.cos(phase) if i % 2 else math.sin(phase)
            assert float(code[block * 6 + i]) == pytest.approx(wanted, abs=1e-6)
    unswapped = get_sine_pos_embed(box, num_pos_feats=6, exchange_xy=False)[0, 0]
    torch.testing.assert_close(unswapped[:12], torch.cat((code[6:12], code[:6])))


def test_an_odd_number_of_sine_features_is_refused():
    with pytest.raises(ValueError, match="even number"):
        get_sine_pos_embed(torch.rand(1, 2, 4), num_pos_feats=5)


def test_perceptron_and_feed_forward_have_detrexs_names_and_arithmetic():
    mlp, ffn = MLP(3, 5, 2, 3), FFN(4, 6)
    assert list(mlp.state_dict()) == [f"layers.{i}.{kind}" for i in range(3) for kind in ("weight", "bias")]
    assert list(ffn.state_dict()) == ["layers.0.0.weight", "layers.0.0.bias", "layers.1.weight", "layers.1.bias"]
    x, identity = torch.randn(2, 4), torch.randn(2, 4)
    hidden = torch.relu(x @ ffn.layers[0][0].weight.T + ffn.layers[0][0].bias)
    wanted = hidden @ ffn.layers[1].weight.T + ffn.layers[1].bias
    torch.testing.assert_close(ffn(x), x + wanted)
    torch.testing.assert_close(ffn(x, identity), identity + wanted)
    with pytest.raises(AssertionError, match="num_fcs=1"):
        FFN(4, 6, num_fcs=1)


@pytest.mark.parametrize("batch_first", [True, False])
def test_attention_adds_positions_to_query_and_key_only(batch_first):
    torch.manual_seed(0)
    layer = MultiheadAttention(8, 2, batch_first=batch_first).eval()
    query, position = torch.randn(2, 3, 5, 8) if batch_first else torch.randn(2, 5, 3, 8)
    blocked = torch.rand(5, 5) < 0.3
    blocked[:, 0] = False
    summed = query + position
    wanted = query + layer.attn(summed, summed, query, attn_mask=blocked)[0]
    torch.testing.assert_close(layer(query, query_pos=position, attn_mask=blocked), wanted)


def test_attention_warns_where_the_query_position_does_not_fit_the_key():
    layer = MultiheadAttention(8, 2, batch_first=True)
    query, key = torch.randn(1, 3, 8), torch.randn(1, 4, 8)
    with pytest.warns(UserWarning, match="does not fit the key"):
        output = layer(query, key, query_pos=torch.zeros_like(query))
    torch.testing.assert_close(output, query + layer.attn(query, key, key)[0])


@pytest.mark.parametrize("shape", [(2, 25, 8), (25, 8)])
def test_a_feed_forward_block_in_pieces_has_the_numbers_of_a_whole_one_and_keeps_no_hidden_values(shape, monkeypatch):
    ffn, x = FFN(8, 32, output_dim=8).double(), torch.randn(shape, dtype=torch.float64, requires_grad=True)
    kept = []

    def run():
        kept.clear()
        with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
            out = ffn(x)
        return out, *torch.autograd.grad(out.square().sum(), (x, *ffn.parameters()))

    whole = run()
    assert x.numel() * 4 in kept
    monkeypatch.setattr("dinov2_detrex.detector.layers.HIDDEN_AT_ONCE", 32 * 7)  # 7 rows, and at last what is left
    torch.testing.assert_close(run(), whole)
    assert x.numel() * 4 not in kept and x.numel() in kept


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_inference_in_pieces_has_the_numbers_of_a_whole_block_and_never_all_hidden_values(context, monkeypatch):
    ffn, x = FFN(8, 32).eval(), torch.randn(2, 25, 8)
    largest = []
    ffn.layers[0][0].register_forward_hook(lambda module, given, out: largest.append(out.numel()))
    with context():
        whole = ffn(x)
        monkeypatch.setattr("dinov2_detrex.detector.layers.HIDDEN_AT_ONCE", 32 * 7)
        torch.testing.assert_close(ffn(x), whole)
    assert largest == [50 * 32]  # in pieces the layers are not called as a whole


def test_dropout_is_drawn_in_large_feed_forward_blocks_too(monkeypatch):
    monkeypatch.setattr("dinov2_detrex.detector.layers.HIDDEN_AT_ONCE", 1)
    ffn, x = FFN(8, 32, ffn_drop=0.5), torch.randn(4, 8)
    assert not torch.equal(ffn(x), ffn(x)) and torch.equal(ffn.eval()(x), ffn(x))


def test_a_large_feed_forward_block_follows_autocast(monkeypatch):
    ffn, x = FFN(8, 32), torch.randn(25, 8, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        whole = ffn(x)
        monkeypatch.setattr("dinov2_detrex.detector.layers.HIDDEN_AT_ONCE", 32 * 7)
        pieces = ffn(x)
    assert pieces.dtype == whole.dtype
    torch.testing.assert_close(pieces, whole)
    pieces.sum().backward()
    assert x.grad is not None and x.grad.dtype == torch.float32 and x.grad.isfinite().all()
