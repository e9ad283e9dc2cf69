"""detrex's names that recipes import: what they compute."""

import math
import subprocess

import pytest
import torch
from detectron2.config import instantiate
from detectron2.layers import ShapeSpec
from detrex.config import get_config, try_get_key
from detrex.layers import PositionEmbeddingSine
from detrex.modeling.neck import ChannelMapper
from omegaconf import OmegaConf
from torch import nn


def _plain_sine_embedding(mask, num_feats, temperature, offset):
    """Section 13 of the contract, cell by cell."""
    batch, height, width = mask.shape
    out = torch.zeros(batch, 2 * num_feats, height, width)
    for b in range(batch):
        for i in range(height):
            for j in range(width):
                column, row = ~mask[b, :, j], ~mask[b, i, :]
                y = (int(column[: i + 1].sum()) + offset) / (int(column.sum()) + 1e-6) * 2 * math.pi
                x = (int(row[: j + 1].sum()) + offset) / (int(row.sum()) + 1e-6) * 2 * math.pi
                for axis, position in enumerate((y, x)):
                    for k in range(num_feats):
                        phase = position / temperature ** (2 * (k // 2) / num_feats)
                        out[b, axis * num_feats + k, i, j] = math.cos(phase) if k % 2 else math.sin(phase)
    return out


def test_sine_embedding_counts_valid_cells_only():
    mask = torch.zeros(2, 4, 5, dtype=torch.bool)
    mask[1, 3:], mask[1, :, 3:] = True, True
    embedding = PositionEmbeddingSine(num_pos_feats=6, temperature=10000, normalize=True, offset=-0.5)(mask)
    expected = _plain_sine_embedding(mask, 6, 10000, -0.5)
    valid = ~mask[:, None].expand_as(embedding)
    torch.testing.assert_close(embedding[valid], expected[valid], rtol=0, atol=1e-5)


def test_neck_maps_every_level_and_adds_coarser_ones_from_the_last_input():
    shapes = {"p3": ShapeSpec(channels=8), "p4": ShapeSpec(channels=4)}
    neck = ChannelMapper(shapes, ["p3", "p4"], 32, kernel_size=1, norm_layer=nn.GroupNorm(32, 32), num_outs=4)
    features = {"p3": torch.rand(1, 8, 9, 7), "p4": torch.rand(1, 4, 5, 4)}
    outputs = neck(features)
    assert [tuple(o.shape[-2:]) for o in outputs] == [(9, 7), (5, 4), (3, 2), (2, 1)]
    assert neck.extra_convs[0].conv.in_channels == 4 and neck.extra_convs[1].conv.in_channels == 32
    by_hand = nn.functional.group_norm(nn.functional.conv2d(features["p3"], *neck.convs[0].conv.parameters()), 32)
    torch.testing.assert_close(outputs[0], by_hand, atol=1e-5, rtol=1e-5)
    assert sorted(k for k in neck.state_dict() if k.startswith("convs.0")) == [
        "convs.0.conv.bias",
        "convs.0.conv.weight",
        "convs.0.norm.bias",
        "convs.0.norm.weight",
    ]


@pytest.mark.fallback("detrex")
def test_neck_leaves_features_alone_that_it_was_not_asked_for():
    neck = ChannelMapper({"p3": ShapeSpec(channels=8)}, ["p3"], 4, num_outs=1)
    assert len(neck({"p3": torch.rand(1, 8, 3, 3), "p9": torch.rand(1, 1, 1, 1)})) == 1


@pytest.mark.parametrize("epochs, drop", [(12, 11 / 12), (24, 20 / 24), (36, 30 / 36), (50, 40 / 50)])
def test_coco_schedules_drop_to_a_tenth_at_their_epoch(epochs, drop):
    multiplier = instantiate(get_config("common/coco_schedule.py")[f"lr_multiplier_{epochs}ep"])
    assert multiplier(drop - 0.01) == 1.0 and multiplier(drop + 0.01) == pytest.approx(0.1)


def test_common_configs_carry_detrex_values():
    train = get_config("common/train.py").train
    assert (train.max_iter, train.clip_grad.params.max_norm, train.model_ema.decay) == (90000, 0.1, 0.999)
    adamw = get_config("common/optim.py").AdamW
    assert (adamw.lr, list(adamw.betas), adamw.weight_decay, adamw.params.base_lr) == (1e-4, [0.9, 0.999], 0.1, 1e-4)
    mapper = get_config("common/data/coco_detr.py").dataloader.train.mapper
    assert list(mapper.augmentation[1].short_edge_length) == list(range(480, 801, 32))


def test_get_config_gives_independent_copies_and_names_an_unknown_path():
    get_config("common/optim.py").AdamW.lr = 7
    assert get_config("common/optim.py").AdamW.lr == 1e-4
    with pytest.raises(RuntimeError, match="common/absent.py"):
        get_config("common/absent.py")


def test_try_get_key_takes_the_first_that_exists():
    cfg = OmegaConf.create({"a": {"b": 1}})
    assert try_get_key(cfg, "x.y", "a.b", default=5) == 1 and try_get_key(cfg, "x", default=5) == 5


def test_submodules_come_by_from_import(python, python_env):
    code = "import dinov2_detrex; from detrex.modeling import matcher; print(matcher.HungarianMatcher.__name__)"
    run = subprocess.run([python, "-c", code], env=python_env, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "HungarianMatcher"


@pytest.mark.fallback("detectron2", "detrex")
def test_importing_the_fallback_alone_is_light(python, python_env):
    """Neither plotting nor logging back ends nor timm are loaded before they are used."""
    code = (
        "import sys, dinov2_detrex, detrex.config, detectron2.config;"
        "print([m for m in ('wandb', 'matplotlib', 'tensorboard', 'timm', 'scipy') if m in sys.modules])"
    )
    run = subprocess.run([python, "-c", code], env=python_env, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
