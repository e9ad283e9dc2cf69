"""FLOPs: the same whatever kernel torch takes, module by module, and what has no formula is told."""

import logging

import pytest
import torch
import torch.nn.functional as F
from tiny_dino import tiny_backbone, tiny_dino
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from dinov2_detrex.analysis.cost import random_inputs
from dinov2_detrex.analysis.flops import CurrentModule, FlopsOfOperators, flops_by_module, is_product, sampling_flops
from dinov2_detrex.detector import MultiScaleDeformableAttention

B, HEADS, N, M, D = 2, 3, 5, 7, 8  # images, heads, queries, keys, channels of a head
ATTENTION = 2 * 2 * B * HEADS * N * M * D  # two products, a multiply-add is 2


class Attention(nn.Module):
    """Cross attention; every product can be counted by hand."""

    def __init__(self, mask: torch.Tensor | None = None, dtype: torch.dtype = torch.float32):
        super().__init__()
        self.mask, self.dtype = mask, dtype
        self.out = nn.Linear(D, 1, dtype=dtype)

    def forward(self, queries):
        keys = torch.ones(B, HEADS, M, D, dtype=self.dtype)
        return self.out(F.scaled_dot_product_attention(queries.to(self.dtype), keys, keys, attn_mask=self.mask))


MASKS = {"no mask": None, "bool": torch.ones(N, M, dtype=torch.bool), "float": torch.zeros(N, M)}


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
@pytest.mark.parametrize("backend", [SDPBackend.FLASH_ATTENTION, SDPBackend.MATH])
def test_attention_is_its_two_products_whatever_kernel_runs(mask, backend):
    with sdpa_kernel(backend):
        flops = flops_by_module(Attention(mask), torch.ones(B, HEADS, N, D))
    assert flops == {"": ATTENTION, "out": 2 * B * HEADS * N * D}


def test_attention_in_half_precision_costs_the_same():
    flops = flops_by_module(Attention(dtype=torch.bfloat16), torch.ones(B, HEADS, N, D))
    assert flops[""] == ATTENTION


def test_a_detector_costs_what_torchs_counter_says_with_attention_written_out():
    """Written out as products of matrices, attention is nothing that any torch's own counter has to know."""
    torch.manual_seed(0)
    model, inputs = tiny_dino(tiny_backbone(32), embed_dim=32, num_heads=4).eval(), random_inputs((64, 128), 1, 3)
    flops = flops_by_module(model, inputs)
    sampled = []
    for module in model.modules():
        if isinstance(module, MultiScaleDeformableAttention):
            module.register_forward_pre_hook(lambda module, args: sampled.append(sampling_flops(module, args[0])))
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(inputs)  # with gradients: it cannot do without
    assert flops.total() == counter.get_total_flops() + sum(sampled)


class Dot(nn.Module):
    def forward(self, x):
        return x.relu() @ x


def test_a_product_without_a_formula_is_told(caplog):
    with caplog.at_level(logging.WARNING, logger="dinov2_detrex.analysis.flops"):
        assert not flops_by_module(Dot(), torch.ones(3))
    assert "no formula for aten::dot (1 times)" in caplog.text


def test_nothing_of_a_detector_is_left_uncounted(caplog):
    model, inputs = tiny_dino(tiny_backbone(32), embed_dim=32, num_heads=4).eval(), random_inputs((64, 128), 1, 3)
    with torch.no_grad(), CurrentModule(model) as current, FlopsOfOperators(current) as counter:
        model(inputs)
    assert counter.flops.total() > 0 and not counter.uncounted


@pytest.mark.parametrize("name", ["aten::addmm", "aten::_weight_int8pack_mm", "aten::mkldnn_linear", "theirs::sample"])
def test_operators_that_may_be_products_are_recognised_by_name(name):
    assert is_product(name)


@pytest.mark.parametrize("name", ["aten::upsample_bilinear2d", "aten::native_layer_norm", "aten::_embedding_bag"])
def test_operators_that_are_none_are_not_told(name):
    assert not is_product(name)
