"""What the building blocks promise: convolution with norm, norms by name, suppression by group."""

import pytest
import torch
from detectron2.layers import Conv2d, FrozenBatchNorm2d, ShapeSpec, batched_nms, cat, get_norm
from detectron2.layers.batch_norm import LayerNorm
from torch import nn


def test_a_shape_spec_compares_by_value_and_knows_nothing_by_default():
    assert ShapeSpec(3, stride=4) == ShapeSpec(channels=3, height=None, width=None, stride=4)
    assert ShapeSpec() != ShapeSpec(channels=1)


def test_conv_applies_norm_then_activation():
    torch.manual_seed(0)
    conv = Conv2d(3, 8, 3, padding=1, bias=False, norm=nn.GroupNorm(2, 8), activation=torch.relu)
    x = torch.randn(2, 3, 5, 7)
    expected = torch.relu(conv.norm(nn.functional.conv2d(x, conv.weight, padding=1)))
    torch.testing.assert_close(conv(x), expected)
    assert list(conv.state_dict()) == ["weight", "norm.weight", "norm.bias"]


def test_conv_takes_an_empty_batch_unless_sync_batch_norm_trains():
    assert Conv2d(3, 4, 3, norm=nn.BatchNorm2d(4)).eval()(torch.zeros(0, 3, 5, 5)).shape == (0, 4, 3, 3)
    with pytest.raises(AssertionError):
        Conv2d(3, 4, 3, norm=nn.SyncBatchNorm(4))(torch.zeros(0, 3, 5, 5))


def test_channels_first_layer_norm_is_torchs_over_the_channels():
    torch.manual_seed(0)
    ours, theirs = LayerNorm(6), nn.LayerNorm(6, eps=1e-6)
    weight, bias = torch.randn(6), torch.randn(6)
    for norm in (ours, theirs):
        norm.load_state_dict({"weight": weight, "bias": bias})
    x = torch.randn(2, 6, 3, 5) * 3 + 1
    expected = theirs(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    torch.testing.assert_close(ours(x), expected)
    assert not isinstance(ours, nn.LayerNorm)  # optimizers treat it like any weight


@pytest.mark.parametrize(
    "name, kind",
    [
        ("BN", nn.BatchNorm2d),
        ("SyncBN", nn.SyncBatchNorm),
        ("nnSyncBN", nn.SyncBatchNorm),
        ("FrozenBN", FrozenBatchNorm2d),
        ("GN", nn.GroupNorm),
        ("LN", LayerNorm),
        (lambda channels: nn.InstanceNorm2d(channels), nn.InstanceNorm2d),
    ],
)
def test_norms_by_name(name, kind):
    norm = get_norm(name, 64)
    assert isinstance(norm, kind)
    if kind is nn.GroupNorm:
        assert norm.num_groups == 32


def test_no_norm_by_name_is_none_and_an_unknown_one_an_error():
    assert get_norm("", 4) is None and get_norm(None, 4) is None
    with pytest.raises(KeyError):
        get_norm("LayerNorm", 4)
    with pytest.raises(ValueError):
        get_norm("GN", 33)


@pytest.mark.fallback("detectron2")
def test_an_unknown_norm_is_told_the_known_ones():
    with pytest.raises(KeyError, match="FrozenBN"):
        get_norm("LayerNorm", 4)


def trained_batch_norm(channels: int = 4) -> nn.BatchNorm2d:
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(channels)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    norm(torch.randn(8, channels, 3, 3) * 2 + 1)
    return norm


@pytest.mark.parametrize("needs_gradient", [False, True])
def test_a_frozen_batch_norm_is_batch_norm_in_eval_mode(needs_gradient):
    norm = trained_batch_norm()
    frozen = FrozenBatchNorm2d.convert_frozen_batchnorm(norm)
    x = torch.randn(2, 4, 5, 6)
    expected = norm.eval()(x)
    x.requires_grad_(needs_gradient)
    torch.testing.assert_close(frozen.train()(x), expected)
    torch.testing.assert_close(frozen.eval()(x), expected)
    assert list(frozen.parameters()) == []


def test_freezing_a_container_changes_it_in_place_at_any_depth():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Sequential(trained_batch_norm()))
    assert FrozenBatchNorm2d.convert_frozen_batchnorm(model) is model
    assert isinstance(model[1][0], FrozenBatchNorm2d)


def test_a_frozen_batch_norm_loads_a_trained_ones_state_and_saves_four_buffers():
    norm, frozen = trained_batch_norm(), FrozenBatchNorm2d(4)
    frozen.load_state_dict(norm.state_dict(), strict=False)
    torch.testing.assert_close(frozen.running_var, norm.running_var)
    assert sorted(frozen.state_dict()) == ["bias", "running_mean", "running_var", "weight"]


def test_a_fresh_frozen_batch_norm_changes_nothing():
    x = torch.randn(2, 4, 3, 3)
    torch.testing.assert_close(FrozenBatchNorm2d(4)(x), x)


def test_an_old_state_dict_without_statistics_loads():
    frozen = FrozenBatchNorm2d(2)
    frozen.load_state_dict({"weight": torch.tensor([2.0, 3.0]), "bias": torch.zeros(2)})
    assert frozen.running_mean.tolist() == [0, 0]
    torch.testing.assert_close(frozen.running_var, torch.ones(2), atol=1e-4, rtol=0)


@pytest.mark.fallback("detectron2")
def test_timm_builds_with_the_frozen_batch_norm():
    import timm

    model = timm.create_model("resnet18", norm_layer=FrozenBatchNorm2d, features_only=True, out_indices=(1,))
    assert any(isinstance(module, FrozenBatchNorm2d) for module in model.modules())
    assert model(torch.zeros(1, 3, 64, 64))[0].shape == (1, 64, 16, 16)


def test_cat_hands_back_a_single_tensor_itself():
    tensor = torch.rand(2, 3)
    assert cat([tensor]) is tensor
    assert cat([tensor, tensor], dim=1).shape == (2, 6)
    with pytest.raises(AssertionError):
        cat(tensor)


def greedy_nms(boxes, scores, groups, threshold):
    """The definition, one box after the other."""
    from torchvision.ops import box_iou

    kept = []
    for i in scores.argsort(descending=True).tolist():
        rivals = [j for j in kept if groups[j] == groups[i]]
        if all(box_iou(boxes[i : i + 1], boxes[j : j + 1]).item() <= threshold for j in rivals):
            kept.append(i)
    return kept


def test_suppression_happens_within_groups_only():
    torch.manual_seed(0)
    corners = torch.rand(40, 2) * 20
    boxes = torch.cat([corners, corners + 5 + torch.rand(40, 2) * 10], dim=1)
    scores, groups = torch.rand(40), torch.randint(0, 3, (40,))
    kept = batched_nms(boxes, scores, groups, 0.4)
    assert kept.tolist() == greedy_nms(boxes, scores, groups, 0.4)
    assert kept.dtype == torch.int64


def test_suppression_takes_half_precision_and_nothing():
    assert batched_nms(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.long), 0.5).shape == (0,)
    boxes = torch.tensor([[0.0, 0, 10, 10], [1, 0, 10, 10]]).bfloat16()
    assert batched_nms(boxes, torch.tensor([0.1, 0.9]), torch.tensor([0, 0]), 0.5).tolist() == [1]
    with pytest.raises(AssertionError):
        batched_nms(torch.zeros(2, 5), torch.zeros(2), torch.zeros(2), 0.5)
