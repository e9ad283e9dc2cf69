"""Parameter groups and learning-rate schedules: the numbers of the contract, and of plain arithmetic."""

import pytest
import torch
from detectron2.solver import WarmupParamScheduler, get_default_optimizer_params
from detectron2.solver.build import reduce_param_groups
from fvcore.common.param_scheduler import (
    ConstantParamScheduler,
    CosineParamScheduler,
    LinearParamScheduler,
    MultiStepParamScheduler,
)
from torch import nn


class Model(nn.Module):
    """Two linear layers, two kinds of norm, a parameter of its own, one tensor under two names, one frozen."""

    def __init__(self):
        super().__init__()
        self.query = nn.Parameter(torch.zeros(2))
        self.net = nn.ModuleDict({"lin": nn.Linear(2, 3), "norm": nn.LayerNorm(3), "group": nn.GroupNorm(1, 3)})
        self.head = nn.Linear(3, 3)
        self.shared = self.head
        self.frozen = nn.Linear(1, 1).requires_grad_(False)


def by_name(model: nn.Module, groups: list[dict]) -> dict[str, dict]:
    """{first name of a parameter: its group without params}; every parameter occurs once."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    found = [(names[p], {k: v for k, v in g.items() if k != "params"}) for g in groups for p in g["params"]]
    assert len(dict(found)) == len(found)
    return dict(found)


# --- parameter groups -------------------------------------------------------------------------------------------


def test_with_nothing_given_there_is_one_group_of_all_that_trains():
    groups = get_default_optimizer_params(Model())
    assert len(groups) == 1 and list(groups[0]) == ["params"]
    assert len(groups[0]["params"]) == 1 + 2 + 2 + 2 + 2


def test_norms_biases_factors_and_overrides_take_effect_in_their_order():
    model = Model()
    asked = []

    def factor(name: str) -> float:
        asked.append(name)
        return 0.1 if name.startswith("net.") else 1.0

    groups = get_default_optimizer_params(
        model,
        base_lr=2.0,
        weight_decay=0.5,
        weight_decay_norm=0.0,
        bias_lr_factor=3.0,
        weight_decay_bias=0.25,
        lr_factor_func=factor,
        overrides={"query": {"lr": 7.0, "weight_decay": 0.125}},
    )
    assert by_name(model, groups) == {
        "query": {"lr": 7.0, "weight_decay": 0.125},
        "net.lin.weight": {"lr": 0.2, "weight_decay": 0.5},
        "net.lin.bias": {"lr": 6.0, "weight_decay": 0.25},
        "net.norm.weight": {"lr": 0.2, "weight_decay": 0.0},
        "net.norm.bias": {"lr": 6.0, "weight_decay": 0.25},
        "net.group.weight": {"lr": 0.2, "weight_decay": 0.0},
        "net.group.bias": {"lr": 6.0, "weight_decay": 0.25},
        "head.weight": {"lr": 2.0, "weight_decay": 0.5},
        "head.bias": {"lr": 6.0, "weight_decay": 0.25},
    }
    assert asked[0] == ".query" and "head.weight" in asked and not any("shared" in name for name in asked)


def test_equal_groups_are_merged_in_order_of_first_appearance():
    model = Model()
    groups = get_default_optimizer_params(model, base_lr=1.0, weight_decay=0.5, weight_decay_norm=0.0)
    assert [(g["weight_decay"], len(g["params"])) for g in groups] == [(0.5, 5), (0.0, 4)]
    a, b, c = (nn.Parameter(torch.zeros(1)) for _ in range(3))
    merged = reduce_param_groups([{"params": [a], "lr": 1}, {"params": [b], "lr": 2}, {"params": [c], "lr": 1}])
    assert [g["lr"] for g in merged] == [1, 2] and merged[0]["params"] == [a, c]


def test_a_channels_first_norm_is_no_norm_module():
    from detectron2.layers.batch_norm import LayerNorm

    groups = get_default_optimizer_params(LayerNorm(4), weight_decay=0.5, weight_decay_norm=0.0)
    assert [g["weight_decay"] for g in groups] == [0.5]


@pytest.mark.parametrize(
    "arguments",
    [
        {"lr_factor_func": lambda name: 1.0},
        {"bias_lr_factor": 2.0},
        {"base_lr": 1.0, "weight_decay_bias": 0.1, "overrides": {"bias": {"lr": 1.0}}},
    ],
)
def test_contradictory_arguments_are_value_errors(arguments):
    with pytest.raises(ValueError):
        get_default_optimizer_params(Model(), **arguments)


@pytest.mark.fallback("detectron2")
def test_the_callers_overrides_are_not_changed_and_useless_ones_are_named(logged):
    messages = logged("detectron2.solver.build")
    overrides = {"no_such_name": {"lr": 1.0}}
    get_default_optimizer_params(Model(), base_lr=1.0, weight_decay_bias=0.0, overrides=overrides)
    assert overrides == {"no_such_name": {"lr": 1.0}}
    assert len(messages) == 1 and "no_such_name" in messages[0]


@pytest.mark.fallback("detectron2")
def test_a_wholly_frozen_model_says_so():
    with pytest.raises(ValueError, match="no parameter of the model requires gradients"):
        get_default_optimizer_params(Model().requires_grad_(False))


# --- schedules --------------------------------------------------------------------------------------------------

STEPS_WITH_WARMUP = [0.001, 0.5005, 1, 1, 1, 1, 1, 1, 0.1, 0.1, 0.1]  # CONTRACT 9.3, run on the original


def steps_with_warmup(**kwargs) -> WarmupParamScheduler:
    steps = MultiStepParamScheduler([1, 0.1], milestones=[8, 10])
    return WarmupParamScheduler(steps, warmup_factor=0.001, warmup_length=0.2, **kwargs)


def test_warm_up_and_steps_have_the_values_of_the_contract():
    schedule = steps_with_warmup(warmup_method="linear")
    assert [schedule(i / 10) for i in range(11)] == pytest.approx(STEPS_WITH_WARMUP)


def test_a_constant_warm_up_stays_at_its_start():
    schedule = steps_with_warmup(warmup_method="constant")
    assert [schedule(w) for w in (0, 0.1, 0.19, 0.2)] == pytest.approx([0.001, 0.001, 0.001, 1])


@pytest.mark.parametrize("rescale", [False, True])
def test_a_linear_warm_up_joins_the_schedule_where_it_is_or_at_its_start(rescale):
    cosine = CosineParamScheduler(1.0, 0.0)
    schedule = WarmupParamScheduler(cosine, 0.1, 0.25, "linear", rescale_interval=rescale)
    end = 1.0 if rescale else cosine(0.25)
    for w in (0.0, 0.1, 0.2):
        assert schedule(w) == pytest.approx(0.1 + (end - 0.1) * w / 0.25)
    for w in (0.25, 0.5, 1.0):
        assert schedule(w) == pytest.approx(cosine((w - 0.25) / 0.75 if rescale else w))


def test_no_warm_up_starts_with_the_schedule_itself():
    assert WarmupParamScheduler(LinearParamScheduler(1.0, 0.0), 0.001, 0.0)(0.0) == 1.0


def test_an_unknown_warm_up_is_a_value_error():
    with pytest.raises(ValueError):
        WarmupParamScheduler(ConstantParamScheduler(1.0), 0.1, 0.5, "exponential")(0.1)
