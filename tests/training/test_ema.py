"""The average of the weights: its arithmetic, its layout, and that borrowing it leaves no trace."""

import copy
import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from dinov2_detrex.training.ema import EMAUpdate, ModelEMA, warmed_up


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.frozen = nn.Linear(3, 3).requires_grad_(False)
        self.body = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
        self.head = nn.Linear(4, 2)
        self.alias = self.head  # detrex's decoder holds the heads a second time
        self.register_buffer("mean", torch.ones(3), persistent=False)

    def forward(self, x):
        return self.head(self.body(self.frozen(x)))


def trained(ema_decay=0.9, steps=4, seed=0):
    """A net after some steps, its average, and the weights after each step."""
    torch.manual_seed(seed)
    net = Net().train()
    ema = ModelEMA(net, ema_decay)
    optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=0.5)
    history = [copy.deepcopy(net.state_dict())]
    for _ in range(steps):
        net(torch.randn(6, 3)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        ema.update()
        history.append(copy.deepcopy(net.state_dict()))
    return net, ema, history


def test_the_average_follows_its_formula_from_the_initial_weights():
    _, ema, history = trained(0.9)
    for name, value in ema.state_dict().items():
        if value.is_floating_point():
            expected = history[0][name].double()
            for step in history[1:]:
                expected = 0.9 * expected + 0.1 * step[name].double()
            torch.testing.assert_close(value.double(), expected, rtol=1e-6, atol=1e-7)


def test_integer_buffers_are_copied_and_not_averaged():
    net, ema, _ = trained(steps=4)
    assert ema.state_dict()["body.1.num_batches_tracked"] == 4


def test_the_state_names_every_saved_tensor_once():
    net, ema, _ = trained()
    names = set(ema.state_dict())
    assert {"frozen.weight", "head.weight", "body.1.running_mean"} <= names
    assert not names & {"alias.weight", "mean"}


def test_the_average_as_a_state_dict_of_the_model_loads_strictly():
    net, ema, _ = trained()
    state = ema.model_state_dict()
    assert state.keys() == net.state_dict().keys() and "alias.weight" in state
    other = Net()
    other.load_state_dict(state)
    with ema.applied():
        assert all(torch.equal(value, other.state_dict()[name]) for name, value in net.state_dict().items())


def test_frozen_weights_take_no_memory_of_their_own_and_stay_exact():
    net, ema, history = trained()
    assert ema.state_dict()["frozen.weight"].data_ptr() == net.frozen.weight.data_ptr()
    assert torch.equal(ema.state_dict()["frozen.weight"], history[0]["frozen.weight"])


def test_inside_applied_the_model_has_the_average_and_afterwards_its_own_weights_even_after_an_error():
    net, ema, history = trained()
    with pytest.raises(ZeroDivisionError), ema.applied() as model:
        assert torch.equal(model.head.weight, ema.state_dict()["head.weight"])
        assert not torch.equal(model.head.weight, history[-1]["head.weight"])
        raise ZeroDivisionError
    assert all(torch.equal(value, history[-1][name]) for name, value in net.state_dict().items())


def test_a_saved_average_continues_where_it_was(tmp_path):
    net, ema, _ = trained()
    torch.save({"ema_state": ema.state_dict()}, tmp_path / "a.pth")
    other = ModelEMA(copy.deepcopy(net), 0.9)
    other.load_state_dict(torch.load(tmp_path / "a.pth", weights_only=True)["ema_state"])
    ema.update(), other.update()
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in ema.state_dict().items())


def test_an_average_of_another_model_is_refused_with_a_name():
    net, ema, _ = trained()
    state = ema.state_dict()
    del state["head.bias"]
    with pytest.raises(AssertionError, match="head.bias"):
        ema.load_state_dict(state)


def test_half_precision_weights_are_averaged():
    net = nn.Linear(2, 2).to(torch.bfloat16)
    ema = ModelEMA(net, 0.5)
    before = net.weight.detach().clone()
    with torch.no_grad():
        net.weight += 1
    ema.update()
    torch.testing.assert_close(ema.state_dict()["weight"], (before + net.weight.detach()) / 2, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("warmup, decays", [(0, [0.9] * 3), (2, [0.9 * (1 - math.exp(-i / 2)) for i in (1, 2, 3)])])
def test_the_decay_grows_with_the_iterations_of_the_run(warmup, decays):
    net, ema, _ = trained(0.9, steps=0)
    hook, expected = EMAUpdate(ema, warmup), net.head.weight.detach().double()
    for completed, decay in enumerate(decays, start=1):
        hook.trainer = SimpleNamespace(completed=completed)
        net.head.weight.data.add_(1.0)
        hook.after_step()
        expected = decay * expected + (1 - decay) * net.head.weight.detach().double()
    torch.testing.assert_close(ema.state_dict()["head.weight"].double(), expected, rtol=1e-5, atol=1e-6)
    assert warmed_up(0.9, 10**6, warmup) == 0.9
