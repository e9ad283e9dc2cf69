"""Which parameters train at which rate: layer decay, backbone factor, weight decay, and the table that says so."""

import pytest
import torch
from detectron2.config import LazyCall as L
from detectron2.config import LazyConfig, instantiate
from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from omegaconf import OmegaConf
from tiny_vits import DINOV3, PLAIN, REGISTERS, tiny_vit
from torch import nn

from dinov2_detrex.backbone import (
    BackboneLrFactor,
    SimpleFeaturePyramid,
    describe_param_groups,
    get_optimizer_params,
    get_vit_lr_decay_rate,
)


def small_detector(name: str = REGISTERS, **kwargs) -> nn.Module:
    detector = nn.Module()
    net = tiny_vit(name, norm=True, **kwargs)
    detector.backbone = SimpleFeaturePyramid(net, "p-1", 32, (2.0, 1.0), LastLevelMaxPool())
    detector.head = nn.Linear(8, 4)
    return detector


@pytest.mark.parametrize(
    ("name", "power"),
    [
        ("backbone.net.pos_embed", 13),
        ("backbone.net.timm_model.model.patch_embed.proj.weight", 13),
        ("backbone.net.blocks.0.norm1.weight", 12),
        ("backbone.net.timm_model.model.blocks.11.mlp.fc2.bias", 1),
        ("backbone.net.timm_model.model.cls_token", 0),
        ("backbone.net.blocks.3.residual.conv1.weight", 0),
        ("backbone.simfp_3.0.weight", 0),
        ("transformer.blocks.3.weight", 0),
    ],
)
def test_detectron2s_rule_is_kept(name, power):
    assert get_vit_lr_decay_rate(name, lr_decay_rate=0.7, num_layers=12) == pytest.approx(0.7**power)


@pytest.mark.parametrize("name", [PLAIN, REGISTERS, DINOV3])
def test_factor_decays_by_depth_inside_the_vit_and_is_one_everywhere_else(name):
    factor = BackboneLrFactor(lr_decay_rate=0.5, num_layers=3, backbone_factor=0.1)
    for parameter, _ in small_detector(name).named_parameters():
        inner = parameter.partition("timm_model.model.")[2]
        if not inner:
            expected = 1.0
        elif inner.startswith("blocks."):
            expected = 0.1 * 0.5 ** (3 - int(inner.split(".")[1]))
        else:
            expected = 0.1 * (1.0 if inner.startswith("norm.") else 0.5**4)
        assert factor(parameter) == pytest.approx(expected), parameter


def test_factor_refuses_a_deeper_model_than_it_was_told():
    with pytest.raises(ValueError, match="blocks.12.*beyond the 12 layers"):
        BackboneLrFactor(0.7)("backbone.net.timm_model.model.blocks.12.norm1.weight")


def test_factor_survives_the_saved_config(tmp_path):
    config = OmegaConf.create(flags={"allow_objects": True})
    config.optimizer = L(torch.optim.AdamW)(
        params=L(get_optimizer_params)(
            base_lr="${..lr}", lr_factor_func=L(BackboneLrFactor)(lr_decay_rate=0.5, num_layers=3)
        ),
        lr=0.01,
        weight_decay=0.05,
    )
    LazyConfig.save(config, str(tmp_path / "config.yaml"))
    loaded = LazyConfig.load(str(tmp_path / "config.yaml"))
    rates = []
    for cfg in (config, loaded):
        cfg.optimizer.params.model = small_detector()
        rates.append([(g["lr"], g["weight_decay"], len(g["params"])) for g in instantiate(cfg.optimizer).param_groups])
    assert rates[0] == rates[1]
    assert {lr for lr, *_ in rates[0]} == {0.01 * 0.5**power for power in range(5)}


def test_frozen_parameters_are_in_no_group_and_all_others_in_one():
    model = small_detector(freeze=2)
    grouped = [parameter for group in get_optimizer_params(model, 1e-4) for parameter in group["params"]]
    assert len(grouped) == len({id(parameter) for parameter in grouped})
    assert {id(p) for p in grouped} == {id(p) for p in model.parameters() if p.requires_grad}


@pytest.mark.parametrize("name", [REGISTERS, DINOV3])
def test_weight_decay_is_off_for_exactly_the_kinds_asked_for(name):
    model = small_detector(name)
    names = {id(parameter): key for key, parameter in model.named_parameters()}
    groups = get_optimizer_params(model, weight_decay=0.05)
    undecayed = {names[id(p)] for group in groups if group["weight_decay"] == 0 for p in group["params"]}
    expected = {
        key
        for key, parameter in model.named_parameters()
        if parameter.dim() == 1 or key.endswith(("pos_embed", "cls_token", "reg_token"))
    }
    assert undecayed == expected
    assert {group["weight_decay"] for group in groups} == {0.0, 0.05}


@pytest.mark.parametrize(
    ("kind", "some"),
    [
        ("norm", "simfp_3.1.norm.weight"),
        ("bias", "attn.proj.bias"),
        ("layer_scale", "ls1.gamma"),
        ("pos_embed", "pos_embed"),
        ("token", "reg_token"),
    ],
)
def test_each_kind_can_be_asked_for_alone(kind, some):
    model = small_detector()
    names = {id(parameter): key for key, parameter in model.named_parameters()}
    groups = get_optimizer_params(model, weight_decay=0.05, no_weight_decay=[kind])
    undecayed = [names[id(p)] for group in groups if group["weight_decay"] == 0 for p in group["params"]]
    assert any(key.endswith(some) for key in undecayed)
    assert not any(key.endswith("fc1.weight") for key in undecayed)
    others = {"norm": "fc1.bias", "bias": "norm1.weight"}.get(kind, "norm1.weight")
    assert not any(key.endswith(others) for key in undecayed)


def test_shared_parameters_are_grouped_once():
    model = nn.ModuleList([nn.Linear(2, 2)] * 3)
    assert sum(len(group["params"]) for group in get_optimizer_params(model, 1.0)) == 2


@pytest.mark.parametrize(
    ("kwargs", "text"),
    [
        ({"no_weight_decay": ["biases"]}, r"\['biases'\].*norm, bias"),
        ({"lr_factor_func": BackboneLrFactor()}, "needs base_lr"),
    ],
)
def test_settings_without_meaning_are_refused(kwargs, text):
    with pytest.raises(ValueError, match=text):
        get_optimizer_params(nn.Linear(2, 2), **kwargs)


def test_a_wholly_frozen_model_is_said_to_be_frozen():
    with pytest.raises(ValueError, match="frozen"):
        get_optimizer_params(nn.Linear(2, 2).requires_grad_(False), 1.0)


def test_description_counts_parameters_and_rates_of_each_part():
    model = small_detector(freeze=True)
    optimizer = torch.optim.AdamW(get_optimizer_params(model, 1e-4, 0.05), lr=1e-4)
    rows = {line.split("  ")[0]: line.split() for line in describe_param_groups(model, optimizer).splitlines()}
    frozen = sum(p.numel() for p in model.backbone.net.parameters())
    pyramid = sum(p.numel() for p in model.backbone.parameters()) - frozen
    assert rows["backbone.net.timm_model"][1:] == ["0", f"{frozen:,}", "frozen", "-"]
    assert rows["backbone (pyramid)"][2:] == [f"{pyramid:,}", f"{pyramid:,}", "0.0001", "0,", "0.05"]
    assert rows["head"][1:] == ["36", "36", "0.0001", "0,", "0.05"]
    assert rows["total"][1:4] == [f"{pyramid + 36:,}", f"{pyramid + frozen + 36:,}", "0.0001"]


def test_description_shows_the_range_of_decayed_rates():
    model = small_detector()
    factor = BackboneLrFactor(0.5, num_layers=3, backbone_factor=0.1)
    optimizer = torch.optim.AdamW(get_optimizer_params(model, 1e-4, lr_factor_func=factor), lr=1e-4)
    text = describe_param_groups(model, optimizer)
    assert "6.25e-07 to 1e-05" in text and "6.25e-07 to 0.0001" in text


def test_named_parts_outside_of_the_vit_are_slowed_alone():
    factor = BackboneLrFactor(backbone_factor=0.2, slow=["sampling_offsets", "bbox"])
    offsets = "transformer.encoder.layers.0.attentions.0.sampling_offsets.weight"
    assert [factor(name) for name in (offsets, "bbox_embed.0.layers.0.weight", "class_embed.0.weight")] == [0.1, 0.1, 1]
    assert factor("backbone.net.timm_model.model.blocks.3.attn.qkv.weight") == 0.2
    assert BackboneLrFactor()(offsets) == 1.0
