"""Names, order, selection and errors of `TimmBackbone`; the training switches that go through to timm."""

import pytest
import timm
import torch
from detectron2.config import LazyCall as L
from detectron2.config import instantiate
from detectron2.layers import FrozenBatchNorm2d, ShapeSpec
from detectron2.modeling import Backbone
from tiny_vits import DINOV3, PLAIN, REGISTERS, TINY, random_images, relative_error, tiny_vit

from dinov2_detrex.backbone import TimmBackbone


@pytest.mark.parametrize("name", [PLAIN, DINOV3])
def test_layers_are_named_and_ordered_by_out_indices_as_given(name):
    backbone = tiny_vit(name, depth=12, out_indices=(2, 5, 8, 11))
    stride = backbone.size_divisibility
    assert list(backbone.output_shape().items()) == [
        (f"p{i}", ShapeSpec(channels=64, stride=stride)) for i in (2, 5, 8, 11)
    ]
    images = random_images(2, 3, 5 * stride, 3 * stride)
    with torch.no_grad():
        maps = backbone(images)
        expected = backbone.vit.forward_intermediates(images, indices=[2, 5, 8, 11], intermediates_only=True)
    assert list(maps) == ["p2", "p5", "p8", "p11"]
    if name == DINOV3:  # no positions to interpolate, so timm's own features are the reference
        assert all(torch.equal(maps[key], feature) for key, feature in zip(maps, expected, strict=True))


def test_negative_indices_keep_their_sign_and_any_order_is_kept():
    backbone = tiny_vit(out_indices=(-1, 0, -2))
    with torch.no_grad():
        maps = backbone(random_images(1, 3, 112, 112))
        twin = tiny_vit(out_indices=(0, 1, 2))(random_images(1, 3, 112, 112))
    assert list(maps) == list(backbone.output_shape()) == ["p-1", "p0", "p-2"]
    assert torch.equal(maps["p-1"], twin["p2"]) and torch.equal(maps["p-2"], twin["p1"])
    assert torch.equal(maps["p0"], twin["p0"])


@pytest.mark.parametrize("name", ["test_resnet", "test_convnext", "test_efficientnet"])
def test_stages_of_other_models_keep_any_order_too(name):
    images = random_images(1, 3, 64, 96)
    torch.manual_seed(0)
    backbone = TimmBackbone(name, out_indices=(3, 1)).eval()
    torch.manual_seed(0)
    twin = timm.create_model(name, features_only=True, out_indices=(1, 3)).eval()
    with torch.no_grad():
        fine, coarse = twin(images)
        maps = backbone(images)
    assert list(maps) == ["p3", "p1"]
    assert torch.equal(maps["p3"], coarse) and torch.equal(maps["p1"], fine)


def test_out_features_selects():
    backbone = tiny_vit(out_indices=(0, 1, 2), out_features=["p2", "p0"])
    assert list(backbone.output_shape()) == list(backbone(random_images(1, 3, 112, 112))) == ["p0", "p2"]
    with pytest.raises(ValueError, match=r"\['p5'\] are not among the maps \['p0', 'p1'\]"):
        tiny_vit(out_indices=(0, 1), out_features=["p5"])


def test_default_indices_are_the_last_block_of_a_vit_and_detrexs_four_stages_otherwise():
    assert list(TimmBackbone(PLAIN, **TINY).output_shape()) == ["p-1"]
    assert list(TimmBackbone("test_resnet").output_shape()) == ["p0", "p1", "p2", "p3"]


def test_prefix_tokens_are_never_in_the_map():
    backbone = tiny_vit(REGISTERS, return_prefix_tokens=True)
    images = random_images(2, 3, 56, 84)
    with torch.no_grad():
        output = backbone(images)
        (feature, prefix), *_ = backbone.vit.forward_intermediates(
            images, indices=[2], return_prefix_tokens=True, intermediates_only=True
        )
    assert {key: tuple(value.shape) for key, value in output.items()} == {
        "p-1": (2, 64, 4, 6),
        "p-1.cls": (2, 64),
        "p-1.reg": (2, 4, 64),
    }
    assert relative_error(output["p-1"], feature) < 1e-6
    assert relative_error(torch.cat([output["p-1.cls"][:, None], output["p-1.reg"]], 1), prefix) < 1e-6
    assert list(backbone.output_shape()) == ["p-1"]


def test_channels_last_model_returns_channels_first():
    backbone = TimmBackbone("swin_tiny_patch4_window7_224", depths=(1, 1, 1, 1), img_size=(96, 64), out_indices=(0, 3))
    maps = backbone.eval()(random_images(1, 3, 96, 64))
    assert {key: tuple(value.shape) for key, value in maps.items()} == {"p0": (1, 96, 24, 16), "p3": (1, 768, 3, 2)}


def test_detrexs_config_runs_as_it_stands():
    config = L(TimmBackbone)(
        model_name=PLAIN, features_only=True, pretrained=False, in_channels=3, out_indices=(-1,), depth=1, img_size=56
    )
    backbone = instantiate(config)
    assert isinstance(backbone, Backbone)
    assert backbone.eval()(random_images(1, 3, 56, 56))["p-1"].shape == (1, 384, 4, 4)
    assert [key for key in backbone.state_dict()][:3] == [
        "timm_model.model.cls_token",
        "timm_model.model.pos_embed",
        "timm_model.model.patch_embed.proj.weight",
    ]


def test_lists_of_a_config_reach_timm_as_its_own_kind():
    config = L(TimmBackbone)(model_name=PLAIN, img_size=[56, 112], out_indices=[0, 2], window_size=2, **TINY)
    config.window_block_indexes = [0, 1]
    backbone = instantiate(config).eval()
    assert backbone.vit.patch_embed.grid_size == (4, 8)
    assert list(backbone(random_images(1, 3, 56, 84))) == ["p0", "p2"]
    stages = instantiate(L(TimmBackbone)(model_name="test_convnext", depths=[1, 1, 1, 1], out_indices=[3]))
    assert list(stages.output_shape()) == ["p3"]


def test_unknown_name_is_an_error_that_suggests_near_ones():
    with pytest.raises(RuntimeError, match="'vit_base_patch14_dinov3'.*vit_base_patch16_dinov3") as error:
        TimmBackbone("vit_base_patch14_dinov3")
    assert error.value.__cause__ is not None
    with pytest.raises(RuntimeError, match=r"near names: .*vit_base_patch14_dinov2\.lvd142m"):
        TimmBackbone("vit_base_patch14_dinov2.lvd142")


@pytest.mark.parametrize(
    ("kwargs", "kind", "text"),
    [
        ({"out_indices": (12,)}, RuntimeError, "index"),
        ({"no_such_option": 1}, RuntimeError, "no_such_option"),
        ({"features_only": False}, RuntimeError, "features_only=True"),
        ({"pretrained": "weights.pth"}, TypeError, "weights.pth.*checkpoint_path"),
        ({"patch_drop_rate": 0.5}, ValueError, "holes"),
        ({"window_size": -3}, ValueError, "window_size=-3"),
        ({"window_block_indexes": [0]}, ValueError, "needs a window_size"),
        ({"window_size": 4, "window_block_indexes": [7]}, ValueError, r"\[7\].*3 blocks"),
    ],
)
def test_argument_that_cannot_be_met_is_named(kwargs, kind, text):
    with pytest.raises(kind, match=text):
        TimmBackbone(PLAIN, **{**TINY, **kwargs})


@pytest.mark.parametrize("switch", [{"norm": True}, {"return_prefix_tokens": True}, {"window_size": 7}, {"freeze": 2}])
def test_switch_for_plain_vits_is_refused_elsewhere(switch):
    with pytest.raises(ValueError, match="plain ViT"):
        TimmBackbone("test_resnet", **switch)


def test_checkpointed_blocks_give_the_same_gradients():
    images = random_images(2, 3, 84, 140)
    gradients = []
    for checkpointed in (False, True):
        backbone = tiny_vit(use_act_checkpoint=checkpointed, window_size=4).train()
        backbone(images)["p-1"].square().mean().backward()
        backbone(images[..., :56])  # another grid before the backward would run must not matter either
        gradients.append([parameter.grad for parameter in backbone.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_checkpointing_keeps_the_grid_of_its_own_forward():
    backbone = tiny_vit(use_act_checkpoint=True, window_size=4).train()
    loss = backbone(random_images(2, 3, 84, 140))["p-1"].square().mean()
    expected = torch.autograd.grad(loss, backbone.vit.pos_embed, retain_graph=True)[0]
    backbone(random_images(1, 3, 56, 56))
    actual = torch.autograd.grad(loss, backbone.vit.pos_embed)[0]
    assert torch.equal(actual, expected)


def test_checkpointing_saves_less_for_the_backward():
    saved = {}
    for checkpointed in (False, True):
        backbone, sizes = tiny_vit(use_act_checkpoint=checkpointed).train(), []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, s=sizes: s.append(t.numel()) or t, lambda t: t):
            backbone(random_images(1, 3, 224, 224))
        saved[checkpointed] = sum(sizes)
    assert saved[True] < 0.3 * saved[False]


def test_other_models_take_checkpointing_too():
    backbone = TimmBackbone("test_convnext", use_act_checkpoint=True).train()
    backbone(random_images(1, 3, 64, 64))["p3"].sum().backward()
    assert all(parameter.grad is not None for parameter in backbone.parameters())


def test_drop_path_acts_in_training_only():
    backbone, images = tiny_vit(drop_path_rate=0.9), random_images(4, 3, 56, 56)
    still = tiny_vit()(images)["p-1"]
    assert torch.equal(backbone.eval()(images)["p-1"], still)
    torch.manual_seed(0)
    assert not torch.equal(backbone.train()(images)["p-1"], still)


def test_norm_layer_goes_to_timm():
    backbone = TimmBackbone("test_resnet", norm_layer=FrozenBatchNorm2d)
    assert any(isinstance(module, FrozenBatchNorm2d) for module in backbone.modules())
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in backbone.modules())


def test_norm_layer_error_keeps_its_type_and_cause():
    with pytest.raises(ValueError, match="norm_layer") as error:
        TimmBackbone("dla34", norm_layer=torch.nn.BatchNorm2d)
    assert error.value.__cause__ is not None


@pytest.mark.parametrize("in_channels", [1, 5])
def test_other_channel_counts_run(in_channels):
    assert tiny_vit(in_channels=in_channels)(random_images(1, in_channels, 56, 84))["p-1"].shape == (1, 64, 4, 6)


def test_batch_of_two_equals_two_singles():
    backbone, images = tiny_vit(REGISTERS, window_size=3), random_images(2, 3, 84, 140)
    with torch.no_grad():
        both = backbone(images)["p-1"]
        singles = torch.cat([backbone(image[None])["p-1"] for image in images])
    assert relative_error(both, singles) < 1e-5


def test_an_error_without_feature_info_is_an_attribute_error(monkeypatch):
    def without(*args, **kwargs):
        return torch.nn.Identity().feature_info

    monkeypatch.setattr("timm.create_model", without)
    with pytest.raises(AttributeError, match="'test_vit'.*feature_info"):
        TimmBackbone("test_vit")
