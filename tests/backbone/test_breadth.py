"""Every DINOv2 and DINOv3 of timm builds with right channels and strides; so do models of other families."""

import re

import pytest
import timm
import torch
from detectron2.modeling import Backbone
from tiny_vits import DINOV3, TINY_DINOV3, random_images, relative_error, tiny_vit
from torch import nn

from dinov2_detrex.backbone import TimmBackbone

NAMES = sorted(
    {name for kind in ("*dinov2*", "*dinov3*") for name in (*timm.list_models(kind), *timm.list_pretrained(kind))}
)
WIDTHS = {"tiny": 192, "small": 384, "base": 768, "large": 1024, "huge": 1280, "giant": 1536, "7b": 4096}
CONVNEXT_WIDTHS = {"tiny": 96, "small": 96, "base": 128, "large": 192}


def test_there_are_names_to_build():
    assert len([name for name in NAMES if "dinov2" in name]) >= 16
    assert len([name for name in NAMES if "dinov3" in name]) >= 20


@pytest.mark.parametrize("name", NAMES)
def test_every_dino_name_builds_with_right_channels_and_strides(name):
    """On the meta device: names, shapes and the whole forward, without memory."""
    with torch.device("meta"):
        backbone = TimmBackbone(name)
        size = re.search(r"tiny|small|base|large|huge|giant|7b", name).group()
        patch = re.search(r"patch(\d+)", name)
        if patch:
            expected = {"p-1": (WIDTHS[size], int(patch.group(1)))}
            assert backbone.size_divisibility == int(patch.group(1))
        else:
            expected = {f"p{i}": (CONVNEXT_WIDTHS[size] * 2**i, 4 * 2**i) for i in range(4)}
        declared = {key: (shape.channels, shape.stride) for key, shape in backbone.output_shape().items()}
        assert declared == expected
        height, width = 2 * 16 * 14, 16 * 14
        maps = backbone(torch.empty(1, 3, height, width))
        assert {key: tuple(value.shape) for key, value in maps.items()} == {
            key: (1, channels, height // stride, width // stride) for key, (channels, stride) in expected.items()
        }


@pytest.mark.parametrize("norm", [False, True], ids=["prenorm", "norm"])
@pytest.mark.parametrize("size", [(128, 128), (96, 160)])
def test_dinov3_equals_timms_own_features(norm, size):
    backbone = tiny_vit(DINOV3, norm=norm, out_indices=(0, 2))
    twin = timm.create_model(DINOV3, dynamic_img_size=True, **TINY_DINOV3).eval()
    twin.load_state_dict(backbone.vit.state_dict(), strict=norm)
    images = random_images(2, 3, *size)
    with torch.no_grad():
        expected = twin.forward_intermediates(images, indices=[0, 2], norm=norm, intermediates_only=True)
        maps = backbone(images)
    for name, feature_map in zip(("p0", "p2"), expected, strict=True):
        assert relative_error(maps[name], feature_map) < 1e-6


def test_dinov3_trains_with_everything_switched_on():
    backbone = tiny_vit(DINOV3, freeze=1, window_size=3, use_act_checkpoint=True, drop_path_rate=0.2, norm=True)
    backbone.train()(random_images(2, 3, 80, 112))["p-1"].square().mean().backward()
    trained = [name for name, parameter in backbone.vit.named_parameters() if parameter.grad is not None]
    assert trained and all(name.startswith(("blocks.1.", "blocks.2.", "norm.")) for name in trained)


@pytest.mark.parametrize(
    "name", ["test_convnext", "test_resnet", "test_efficientnet", "test_nfnet", "test_byobnet", "test_mambaout"]
)
def test_any_model_with_features_only_builds_and_keeps_its_word(name):
    backbone = TimmBackbone(name, out_indices=(1, 2)).eval()
    with torch.no_grad():
        maps = backbone(random_images(2, 3, 128, 192))
    for key, shape in backbone.output_shape().items():
        assert maps[key].shape == (2, shape.channels, 128 // shape.stride, 192 // shape.stride), key


@pytest.mark.parametrize("name", ["test_vit", "test_vit4", "deit_tiny_distilled_patch16_224", "eva02_tiny_patch14_224"])
def test_vits_of_other_families_equal_timm_at_any_size(name):
    options = {} if name.startswith("test") else {"depth": 2}
    torch.manual_seed(0)
    backbone = TimmBackbone(name, out_indices=(0, -1), **options).eval()
    torch.manual_seed(0)
    twin = timm.create_model(name, features_only=True, out_indices=(0, -1), dynamic_img_size=True, **options).eval()
    stride = backbone.size_divisibility
    images = random_images(1, 3, 5 * stride, 9 * stride)
    with torch.no_grad():
        for feature_map, expected in zip(backbone(images).values(), twin(images), strict=True):
            assert relative_error(feature_map, expected) < 1e-6


class DenseBoxHead(nn.Module):
    """A detector of the test's own that knows detectron2's `Backbone` and nothing of this project."""

    def __init__(self, backbone: Backbone, in_features: list[str]):
        super().__init__()
        shapes = backbone.output_shape()
        self.backbone, self.in_features = backbone, in_features
        self.strides = [shapes[name].stride for name in in_features]
        self.predict = nn.ModuleList(nn.Conv2d(shapes[name].channels, 5, 1) for name in in_features)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(B, sum of cells, 5): score and box in pixels around each cell's centre."""
        features, outputs = self.backbone(images), []
        for name, stride, predict in zip(self.in_features, self.strides, self.predict):
            score, left_top, right_bottom = predict(features[name]).split([1, 2, 2], dim=1)
            rows, columns = (torch.arange(n) * stride + stride / 2 for n in score.shape[-2:])
            centre = torch.stack(torch.meshgrid(rows, columns, indexing="ij"))
            box = torch.cat([score, centre - left_top.exp(), centre + right_bottom.exp()], 1)
            outputs.append(box.flatten(2).transpose(1, 2))
        return torch.cat(outputs, 1)


@pytest.mark.parametrize("name", ["vit_small_patch14_dinov2", DINOV3, "test_convnext"])
def test_it_serves_a_detector_that_knows_only_detectron2s_interface(name):
    backbone = TimmBackbone(name) if name == "test_convnext" else tiny_vit(name)
    model = DenseBoxHead(backbone, list(backbone.output_shape())).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    unit = backbone.size_divisibility or 32
    images, losses = random_images(2, 3, 2 * unit, 3 * unit), []
    for _ in range(4):
        predicted = model(images)
        losses.append(predicted[..., 0].square().mean() + predicted[..., 1:].abs().mean() / 100)
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < losses[0]
