"""Each part of the detector refuses, when it is built and in one line, numbers that it cannot work with."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pooling_backbone import PoolingBackbone
from tiny_dino import SMALL, image, record, tiny_dino, weight_dict
from torch import nn

from dinov2_detrex.backbone import BackboneLrFactor, SimpleFeaturePyramid, TimmBackbone
from dinov2_detrex.detector import (
    FFN,
    MLP,
    DINOCriterion,
    DINOTransformer,
    DINOTransformerDecoder,
    DINOTransformerEncoder,
    HungarianMatcher,
    MultiheadAttention,
    MultiScaleDeformableAttention,
)
from dinov2_detrex.detector.trial import check_position_embedding, try_neck
from dinov2_detrex.runtime.errors import UsageError

WIDTHS = dict(embed_dim=16, num_heads=4, feedforward_dim=8, num_layers=1)
ATTENTION = dict(embed_dim=16, num_heads=4)
VIT = dict(model_name="vit_small_patch14_dinov2", embed_dim=16, depth=1, num_heads=2, patch_size=14, img_size=28)


def transformer(**arguments):
    return DINOTransformer(
        DINOTransformerEncoder(**WIDTHS),
        DINOTransformerDecoder(**WIDTHS),
        **{"two_stage_num_proposals": 4, **arguments},
    )


def detector(**arguments):
    return tiny_dino(PoolingBackbone(), **{**SMALL, **arguments})


def criterion(**arguments):
    return DINOCriterion(**{"num_classes": 3, "matcher": HungarianMatcher(), "weight_dict": weight_dict(), **arguments})


def pyramid(**arguments):
    net = TimmBackbone(**VIT)
    return SimpleFeaturePyramid(
        **{"net": net, "in_feature": "p-1", "out_channels": 8, "scale_factors": [1.0], **arguments}
    )


PARTS = {
    "encoder": lambda **given: DINOTransformerEncoder(**WIDTHS | given),
    "decoder": lambda **given: DINOTransformerDecoder(**WIDTHS | given),
    "transformer": transformer,
    "attention": lambda **given: MultiheadAttention(**ATTENTION | given),
    "deformable": lambda **given: MultiScaleDeformableAttention(**ATTENTION | given),
    "ffn": lambda **given: FFN(**{"embed_dim": 8, "feedforward_dim": 8, **given}),
    "mlp": lambda **given: MLP(**{"input_dim": 4, "hidden_dim": 4, "output_dim": 4, "num_layers": 2, **given}),
    "matcher": HungarianMatcher,
    "criterion": criterion,
    "detector": detector,
    "vit": lambda **given: TimmBackbone(**VIT | given),
    "pyramid": pyramid,
    "lr factor": BackboneLrFactor,
}
COUNT, COUNT_OR_0, SHARE, WEIGHT = "count", "count or 0", "share", "weight"
KINDS = {
    "encoder": {"embed_dim": COUNT, "num_heads": COUNT, "feedforward_dim": COUNT, "num_layers": COUNT_OR_0,
                "num_feature_levels": COUNT, "num_points": COUNT},
    "decoder": {"embed_dim": COUNT, "num_heads": COUNT, "feedforward_dim": COUNT, "num_layers": COUNT,
                "num_feature_levels": COUNT, "num_points": COUNT},
    "transformer": {"num_feature_levels": COUNT, "two_stage_num_proposals": COUNT},
    "attention": {"embed_dim": COUNT, "num_heads": COUNT, "attn_drop": SHARE, "proj_drop": SHARE},
    "deformable": {"embed_dim": COUNT, "num_heads": COUNT, "num_levels": COUNT, "num_points": COUNT, "dropout": SHARE},
    "ffn": {"embed_dim": COUNT, "feedforward_dim": COUNT, "ffn_drop": SHARE},
    "mlp": {"input_dim": COUNT, "hidden_dim": COUNT, "output_dim": COUNT, "num_layers": COUNT},
    "matcher": {"cost_class": WEIGHT, "cost_bbox": WEIGHT, "cost_giou": WEIGHT, "alpha": SHARE, "gamma": WEIGHT},
    "criterion": {"num_classes": COUNT, "eos_coef": WEIGHT, "alpha": SHARE, "gamma": WEIGHT},
    "detector": {"select_box_nums_for_evaluation": COUNT, "dn_number": COUNT_OR_0, "vis_period": COUNT_OR_0,
                 "box_noise_scale": WEIGHT},
    "vit": {"in_channels": COUNT, "embed_dim": COUNT, "depth": COUNT, "num_heads": COUNT, "patch_size": COUNT,
            "img_size": COUNT, "drop_path_rate": SHARE, "proj_drop_rate": SHARE, "window_size": COUNT_OR_0},
    "pyramid": {"out_channels": COUNT, "square_pad": COUNT_OR_0},
    "lr factor": {"lr_decay_rate": WEIGHT, "num_layers": COUNT, "backbone_factor": WEIGHT},
}  # fmt: skip
ARGUMENTS = [(part, name) for part, kinds in KINDS.items() for name in kinds]
NULL_IS_A_DEFAULT = {("criterion", "eos_coef"), *(("vit", name) for name in KINDS["vit"] if name != "window_size")}
NEVER = st.sampled_from([math.nan, math.inf, -math.inf, True, "abc", "", {"a": 1}, 10**400])
FRACTIONS = st.floats(0.01, 1e6).filter(lambda value: value != int(value))
REFUSED = {
    COUNT: st.integers(max_value=0) | st.integers(min_value=2**40) | FRACTIONS | NEVER,
    COUNT_OR_0: st.integers(max_value=-1) | st.integers(min_value=2**40) | FRACTIONS | NEVER,
    SHARE: st.floats(max_value=-1e-9) | st.floats(min_value=1, exclude_min=True) | NEVER,
    WEIGHT: st.floats(max_value=-1e-9) | NEVER,
}


@st.composite
def argument_and_refused_value(draw):
    part, name = draw(st.sampled_from(ARGUMENTS))
    values = REFUSED[KINDS[part][name]]
    return part, name, draw(values if (part, name) in NULL_IS_A_DEFAULT else values | st.none())


@settings(max_examples=200)
@given(argument_and_refused_value())
def test_a_value_from_outside_of_its_range_is_one_line_with_its_name(case):
    part, name, value = case
    with pytest.raises(UsageError) as caught:
        PARTS[part](**{name: value})
    message = str(caught.value)
    assert f"{name}=" in message and " must be " in message and "\n" not in message


@pytest.mark.parametrize("part", PARTS)
def test_with_values_inside_of_their_ranges_each_part_is_built(part):
    PARTS[part]()


@pytest.mark.parametrize(
    "part, arguments, words",
    [
        ("encoder", {"num_heads": 5}, ["DINOTransformerEncoder", "embed_dim=16", "num_heads=5"]),
        ("decoder", {"embed_dim": 18, "num_heads": 2}, ["embed_dim=18", "multiple of 4"]),
        ("transformer", {"num_feature_levels": 3}, ["num_feature_levels=3", "encoder, 4"]),
        ("criterion", {"weight_dict": {"loss_class": math.nan}}, ["loss_class=nan"]),
        ("detector", {"pixel_mean": [1.0, 2.0]}, ["pixel_std", "list of 2"]),
        ("detector", {"pixel_mean": [1.0, math.nan, 2.0]}, ["pixel_mean=[1.0, nan, 2.0]"]),
        ("detector", {"pixel_std": [1.0, 0.0, 2.0]}, ["pixel_std=[1.0, 0.0, 2.0]", "above 0"]),
        ("detector", {"pixel_std": 3.0}, ["pixel_std=3.0", "a list"]),
        ("detector", {"label_noise_ratio": 3}, ["label_noise_ratio=3", "from 0 to 2"]),
        ("detector", {"input_format": "HSV"}, ["input_format='HSV'", "'BGR'"]),
        ("detector", {"num_classes": 0}, ["num_classes=0"]),
        ("detector", {"criterion": {"num_classes": 7}}, ["num_classes=5", "criterion, 7"]),
        ("vit", {"img_size": 30}, ["img_size=30", "multiple of the patch, 14 x 14"]),
        ("vit", {"img_size": (28, 30)}, ["img_size=(28, 30)", "multiple of the patch"]),
        ("vit", {"img_size": (28, 0)}, ["img_size[1]=0"]),
        ("vit", {"out_indices": []}, ["out_indices=[]"]),
        ("vit", {"out_indices": [0.5]}, ["out_indices[0]=0.5"]),
        ("vit", {"window_size": 2, "window_block_indexes": [-1]}, ["window_block_indexes[0]=-1"]),
        ("pyramid", {"scale_factors": []}, ["scale_factors=[]"]),
    ],
)  # fmt: skip
def test_values_that_do_not_go_together_are_one_line_with_both(part, arguments, words):
    with pytest.raises(UsageError) as caught:
        PARTS[part](**arguments)
    message = str(caught.value)
    assert all(word in message for word in words) and "\n" not in message, message


@pytest.mark.parametrize("index", [1, -2, 7])
def test_a_block_that_the_vit_lacks_is_named(index):
    with pytest.raises((ValueError, RuntimeError), match=r"out_indices|out of|index"):
        TimmBackbone(**VIT, out_indices=[index])


@pytest.mark.parametrize(
    "neck, line",
    [
        ({"num_outs": 5}, "output='5 levels of 32 channels' must be 4 levels of 32 channels"),
        ({"out_channels": 16}, "output='4 levels of 16 channels' must be 4 levels of 32 channels"),
        ({"in_features": ["p3", "p9"]}, "p9"),
    ],
)
def test_a_neck_that_does_not_fit_the_other_parts_is_refused_when_the_detector_is_built(neck, line):
    with pytest.raises((UsageError, KeyError), match=line):
        detector(neck={"norm_layer": None, **neck})


class Codes(nn.Module):
    """Positions of a width and a value."""

    def __init__(self, width, value):
        super().__init__()
        self.width, self.value = width, value

    def forward(self, mask):
        return torch.full((1, self.width, *mask.shape[-2:]), self.value)


@pytest.mark.parametrize("codes, line", [((16, 0.0), "embed_dim=32"), ((32, math.nan), "must be finite")])
def test_positions_that_do_not_fit_are_refused_when_the_detector_is_built(codes, line):
    with pytest.raises(UsageError, match=line):
        check_position_embedding(Codes(*codes), 32)
    check_position_embedding(Codes(32, 1.0), 32)


def test_trying_a_neck_changes_neither_its_modes_nor_its_statistics():
    neck = nn.ModuleDict({"norm": nn.BatchNorm2d(16), "frozen": nn.BatchNorm2d(16).eval()})
    neck.forward = lambda maps: [neck["norm"](maps["p3"] + 1)]
    before = {name: value.clone() for name, value in neck.state_dict().items()}
    (level,) = try_neck(PoolingBackbone(), neck)
    assert level.shape == (1, 16, 64, 64)
    assert neck["norm"].training and not neck["frozen"].training
    assert all(torch.equal(value, before[name]) for name, value in neck.state_dict().items())


def test_images_of_other_channels_than_the_statistics_are_one_line():
    with pytest.raises(UsageError, match=r"pixel_mean=.* must be of 1 channels"):
        detector().eval()([record(image(64, 64)[:1])])
