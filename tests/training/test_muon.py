"""Muon makes all directions of a matrix equal, leaves everything else to AdamW, and knows which is which."""

import copy

import pytest
import torch
from torch import nn

from dinov2_detrex.runtime.errors import UsageError
from dinov2_detrex.training.muon import Muon, matrices_apart, orthogonalised


class Small(nn.Module):
    """Every kind of matrix that a detector has."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(40, 64), nn.Linear(64, 40, bias=False)
        self.attention = nn.MultiheadAttention(40, 2)
        self.norm, self.label_enc = nn.LayerNorm(40), nn.Embedding(50, 40)
        self.class_embed = nn.ModuleList([nn.Linear(40, 80)])
        self.bbox = nn.Linear(40, 4)
        self.frozen = nn.Linear(40, 40).requires_grad_(False)


HIDDEN = {"first.weight", "second.weight", "attention.in_proj_weight", "attention.out_proj.weight"}


def with_gradients(model, seed=1):
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.randn(parameter.shape, generator=generator)
    return model


def muon(model, **options):
    return Muon(matrices_apart(model, base_lr=0.01, weight_decay_norm=0.0), lr=0.01, **options)


@pytest.mark.parametrize("shape", [(3, 48, 48), (1, 33, 160), (2, 160, 33)])
def test_singular_values_come_near_one_and_directions_stay(shape):
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    left, values, right = torch.linalg.svd(matrices, full_matrices=False)
    found = orthogonalised(matrices * 1e-4)
    along = torch.diagonal(left.mT @ found @ right.mT, dim1=-2, dim2=-1)
    large = values > 0.05 * values.amax(-1, keepdim=True)
    assert ((along > 0.6) & (along < 1.3))[large].all()
    torch.testing.assert_close(left * along[:, None] @ right, found)


def test_hidden_matrices_are_apart_and_every_parameter_that_trains_is_in_one_group():
    model = Small()
    name_of = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = matrices_apart(
        model, base_lr=0.1, weight_decay_norm=0.0, lr_factor_func=lambda name: 1 + ("first" in name)
    )
    marked = {name_of[id(p)]: group for group in groups if group["orthogonal"] for p in group["params"]}
    assert marked.keys() == HIDDEN
    assert marked["first.weight"]["lr"] == 0.2 and marked["second.weight"]["lr"] == 0.1
    listed = [name_of[id(p)] for group in groups for p in group["params"]]
    assert sorted(listed) == sorted(name for name, p in model.named_parameters() if p.requires_grad)


def test_matrices_move_by_what_adamw_would_and_the_rest_steps_as_with_adamw():
    model = with_gradients(Small())
    other, before = copy.deepcopy(model), copy.deepcopy(model.state_dict())
    for own, theirs in zip(model.parameters(), other.parameters()):
        theirs.grad = None if own.grad is None else own.grad.clone()
    muon(model, weight_decay=0.0).step()
    groups = matrices_apart(other, base_lr=0.01, weight_decay_norm=0.0)
    torch.optim.AdamW(groups, lr=0.01, weight_decay=0.0).step()
    for name, parameter in model.named_parameters():
        if name in HIDDEN:
            rms = float((parameter.detach() - before[name]).square().mean().sqrt())
            assert rms == pytest.approx(0.2 * 0.01, rel=0.25), name
        else:
            assert torch.equal(parameter, other.get_parameter(name)), name


def test_weight_decay_shrinks_matrices_and_momentum_is_kept():
    model = with_gradients(Small())
    optimizer, start = muon(model, weight_decay=0.5), model.first.weight.detach().clone()
    model.first.weight.grad = torch.zeros_like(start)
    optimizer.step()
    torch.testing.assert_close(model.first.weight.detach(), start * (1 - 0.01 * 0.5))
    with_gradients(model)
    optimizer.step()
    moved = model.first.weight.detach().clone()
    model.first.weight.grad = torch.zeros_like(start)
    optimizer.step()
    assert (model.first.weight.detach() - moved * (1 - 0.01 * 0.5)).abs().max() > 1e-4


def test_a_restored_optimizer_goes_on_to_the_last_bit():
    model = with_gradients(Small())
    optimizer = muon(model)
    optimizer.step()
    twin = copy.deepcopy(model)
    restored = muon(twin)
    restored.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for own, step in ((model, optimizer.step), (twin, restored.step)):
        with_gradients(own, seed=2)
        step()
    assert all(torch.equal(p, twin.get_parameter(name)) for name, p in model.named_parameters())


def test_a_step_calls_its_closure():
    assert muon(with_gradients(Small())).step(lambda: 7) == 7


def test_parameters_that_are_not_divided_are_refused():
    with pytest.raises(UsageError, match="no weight matrices; its params must be those of .*matrices_apart"):
        Muon([{"params": list(Small().parameters())}])
