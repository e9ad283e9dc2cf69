"""The optimizer is built for a model without a trace in the config, and so is everything else of a run."""

import copy
from pathlib import Path

import pytest
import torch
from detectron2.config import LazyCall as L
from detectron2.config import instantiate
from detectron2.solver.build import get_default_optimizer_params
from omegaconf import OmegaConf

from dinov2_detrex.config.loading import load
from dinov2_detrex.config.train_options import ClipGradOptions, ClipGradParams
from dinov2_detrex.runtime.errors import UsageError
from dinov2_detrex.training.lr import flat_then_cosine
from dinov2_detrex.training.optimizer import build_optimizer, gradient_clipping
from dinov2_detrex.training.run import run

CONFIG = Path(__file__).with_name("tiny_config.py")


def test_the_config_keeps_no_trace_of_the_model_and_its_references_lead_out_of_the_node():
    cfg = OmegaConf.create(
        {
            "rate": 0.5,
            "optimizer": L(torch.optim.SGD)(
                params=L(get_default_optimizer_params)(base_lr="${..lr}", weight_decay_norm=0.0), lr="${rate}"
            ),
        },
        flags={"allow_objects": True},
    )
    before = copy.deepcopy(cfg)
    model = torch.nn.Linear(2, 1)
    optimizer = build_optimizer(cfg.optimizer, model)
    assert {id(p) for group in optimizer.param_groups for p in group["params"]} == {id(p) for p in model.parameters()}
    assert {group["lr"] for group in optimizer.param_groups} == {0.5}
    assert cfg == before and "model" not in cfg.optimizer.params


def test_gradients_are_clipped_to_the_norm_and_not_at_all_where_it_is_off():
    parameter = torch.nn.Parameter(torch.zeros(2))
    parameter.grad = torch.tensor([3.0, 4.0])
    clip = gradient_clipping(ClipGradOptions(enabled=True, params=ClipGradParams(max_norm=1.0)))
    assert clip is not None and clip([parameter]) == 5
    torch.testing.assert_close(parameter.grad, torch.tensor([0.6, 0.8]))
    assert gradient_clipping(ClipGradOptions()) is None


def test_every_part_is_clipped_by_its_own_norm_where_asked():
    model = torch.nn.ModuleDict({"neck": torch.nn.Linear(2, 1, bias=False), "head": torch.nn.Linear(2, 1, bias=False)})
    model["neck"].weight.grad, model["head"].weight.grad = torch.tensor([[3.0, 4.0]]), torch.tensor([[0.0, 0.5]])
    clip = gradient_clipping(ClipGradOptions(enabled=True, by_part=True, params=ClipGradParams(max_norm=1.0)), model)
    assert float(clip(model.parameters())) == pytest.approx((25 + 0.25) ** 0.5)
    torch.testing.assert_close(model["neck"].weight.grad, torch.tensor([[0.6, 0.8]]))
    torch.testing.assert_close(model["head"].weight.grad, torch.tensor([[0.0, 0.5]]))


def test_a_run_sets_nothing_on_its_config(tiny_env, tmp_path):
    cfg = load(str(CONFIG), [f"train.output_dir={tmp_path}", "train.max_iter=2", "train.seed=-1", "train.device=null"])
    before = copy.deepcopy(cfg)
    assert run(cfg, str(CONFIG)) == 0
    assert cfg == before and cfg.train.seed == -1 and cfg.train.device is None


def test_a_rate_that_stays_then_falls_is_one_override_of_any_recipe():
    for recipe in ("dino_dinov2_b_12ep", "dino_dinov2_tiny_shapes"):
        cfg = load(
            recipe, ["lr_multiplier.scheduler={_target_: dinov2_detrex.training.lr.flat_then_cosine, flat: 0.4}"]
        )
        multiplier = instantiate(cfg.lr_multiplier)
        assert multiplier(0.3) == 1.0 and multiplier(0.7) == pytest.approx(0.505) and multiplier(1 - 1e-9) < 0.0101


@pytest.mark.parametrize("wrong", [{"flat": 0}, {"flat": 1.0}, {"flat": 1.2}, {"end_value": -0.1}, {"flat": "half"}])
def test_a_share_of_the_run_that_is_none_is_refused(wrong):
    with pytest.raises(UsageError, match=f"flat_then_cosine: {next(iter(wrong))}="):
        flat_then_cosine(**wrong)
