"""The pyramid keeps what it declares: names, shapes, strides, padding; any patch size."""

import math

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone
from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from detectron2.structures import ImageList
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_vits import PLAIN, TINY, random_images, randomise, relative_error
from torch import nn

from dinov2_detrex.backbone import SimpleFeaturePyramid, TimmBackbone


class PatchNet(Backbone):
    """The smallest net with a patch: one convolution, so that every cell depends on its own patch alone."""

    def __init__(self, patch: int, channels: int = 16):
        super().__init__()
        self.proj = nn.Conv2d(3, channels, patch, patch)
        self._out_features, self._out_feature_channels = ["p-1"], {"p-1": channels}
        self._out_feature_strides = {"p-1": patch}

    def forward(self, x):
        return {"p-1": self.proj(x)}


def pyramid(patch: int, scales=(2.0, 1.0, 0.5), top_block=True, **kwargs) -> SimpleFeaturePyramid:
    torch.manual_seed(0)
    block = LastLevelMaxPool() if top_block else None
    return randomise(SimpleFeaturePyramid(PatchNet(patch), "p-1", 8, scales, block, **kwargs))


@pytest.mark.parametrize(
    ("patch", "scales", "strides", "multiple"),
    [
        (16, (2.0, 1.0, 0.5), {"p3": 8, "p4": 16, "p5": 32, "p6": 64}, 64),
        (14, (2.0, 1.0, 0.5), {"p3": 7, "p4": 14, "p5": 28, "p6": 56}, 56),
        (16, (4.0, 2.0, 1.0, 0.5), {"p2": 4, "p3": 8, "p4": 16, "p5": 32, "p6": 64}, 64),
        (16, (4.0, 2.0, 1.0, 0.5, 0.25), {"p2": 4, "p3": 8, "p4": 16, "p5": 32, "p6": 64, "p7": 128}, 128),
        (14, (4.0, 2.0, 1.0, 0.5), {"p2": 3.5, "p3": 7, "p4": 14, "p5": 28, "p6": 56}, 56),
        (8, (2.0, 1.0, 0.5), {"p2": 4, "p3": 8, "p4": 16, "p5": 32}, 32),
        (32, (2.0, 1.0, 0.5), {"p4": 16, "p5": 32, "p6": 64, "p7": 128}, 128),
        (12, (2.0, 1.0, 0.5), {"p3": 6, "p4": 12, "p5": 24, "p6": 48}, 48),
        (20, (2.0, 1.0), {"p3": 10, "p4": 20, "p5": 40}, 40),
    ],
)
def test_names_strides_and_padding_of_every_patch_size(patch, scales, strides, multiple):
    model = pyramid(patch, scales)
    assert {name: shape.stride for name, shape in model.output_shape().items()} == strides
    assert list(model.output_shape()) == list(strides)
    assert model.size_divisibility == multiple
    assert model.padding_constraints == {
        "size_divisibility": multiple,
        "size_divisiblity": multiple,
        "square_size": 0,
    }
    assert all(isinstance(shape, ShapeSpec) and shape.channels == 8 for shape in model.output_shape().values())


@settings(max_examples=16, derandomize=True)
@given(
    patch=st.sampled_from([8, 12, 14, 16, 20, 32]),
    first=st.integers(0, 3),
    number=st.integers(1, 5),
    top_block=st.booleans(),
    image_hw=st.tuples(st.integers(1, 150), st.integers(1, 150)),
    batch=st.integers(1, 3),
)
def test_declared_shapes_and_strides_are_the_produced_ones(patch, first, number, top_block, image_hw, batch):
    model = pyramid(patch, (4.0, 2.0, 1.0, 0.5, 0.25)[first : first + number], top_block)
    images = ImageList.from_tensors(
        [random_images(3, *image_hw) for _ in range(batch)], padding_constraints=model.padding_constraints
    ).tensor
    with torch.no_grad():
        levels = model(images)
    assert list(levels) == list(model.output_shape())
    for name, shape in model.output_shape().items():
        assert levels[name].shape[:2] == (batch, shape.channels)
        assert [n * shape.stride for n in levels[name].shape[-2:]] == list(images.shape[-2:]), name


@settings(max_examples=6, derandomize=True)
@given(patch=st.sampled_from([8, 14, 16]), level=st.integers(0, 3), axis=st.integers(2, 3))
def test_translation_by_one_stride_moves_the_features_by_one_cell(patch, level, axis):
    """Away from the borders that the 3x3 convolutions and the moved image's edge reach.

    A fine level moves exactly only by whole patches: its cells differ in their place inside the patch.
    """
    model = pyramid(patch)
    name, shape = list(model.output_shape().items())[level]
    shift_px = max(shape.stride, patch)
    cells = shift_px // shape.stride
    images = random_images(1, 3, 8 * model.size_divisibility, 7 * model.size_divisibility)
    with torch.no_grad():
        before, after = (model(x)[name] for x in (images, images.roll(shift_px, axis)))
    inner = (..., *(slice(2 + cells, -2) for _ in range(2)))
    assert relative_error(after[inner], before.roll(cells, axis)[inner]) < 1e-5


def test_patch_14_with_a_real_vit_gives_p3_to_p6_and_trains():
    net = TimmBackbone(PLAIN, **TINY, img_size=112)
    model = SimpleFeaturePyramid(net, "p-1", 32, (2.0, 1.0, 0.5), LastLevelMaxPool())
    levels = model(random_images(2, 3, 112, 168))
    assert {name: tuple(level.shape[-2:]) for name, level in levels.items()} == {
        "p3": (16, 24),
        "p4": (8, 12),
        "p5": (4, 6),
        "p6": (2, 3),
    }
    sum(level.square().mean() for level in levels.values()).backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in model.parameters())


def test_last_level_max_pool_works_on_the_coarsest_level_whatever_it_is_called():
    for patch in (8, 14, 16, 32):
        model = pyramid(patch)
        with torch.no_grad():
            *_, coarse, top = model(random_images(1, 3, *2 * [2 * model.size_divisibility])).values()
        assert torch.equal(top, coarse[..., ::2, ::2])


class StridedTop(nn.Module):
    """Two more levels from a named map, like RetinaNet's p6 and p7."""

    def __init__(self, in_feature: str, channels: int):
        super().__init__()
        self.in_feature, self.num_levels = in_feature, 2
        self.first, self.second = (nn.Conv2d(c, 8, 3, 2, 1) for c in (channels, 8))

    def forward(self, x):
        first = self.first(x)
        return [first, self.second(first)]


@pytest.mark.parametrize(("source", "channels", "strides"), [("p5", 8, (64, 128)), ("p-1", 16, (32, 64))])
def test_top_block_on_a_named_map_declares_its_true_strides(source, channels, strides):
    model = SimpleFeaturePyramid(PatchNet(16), "p-1", 8, (2.0, 1.0, 0.5), StridedTop(source, channels))
    shapes = model.output_shape()
    assert list(shapes) == ["p3", "p4", "p5", "p6", "p7"]
    assert (shapes["p6"].stride, shapes["p7"].stride) == strides
    levels = model(random_images(1, 3, 128, 256))
    for name, shape in shapes.items():
        assert tuple(levels[name].shape[-2:]) == (128 // shape.stride, 256 // shape.stride), name


def test_top_block_without_its_map_is_refused_with_the_names_there_are():
    with pytest.raises(ValueError, match="StridedTop.in_feature='p5'.*p-1, p2, p3"):
        SimpleFeaturePyramid(PatchNet(8), "p-1", 8, (2.0, 1.0), StridedTop("p5", 8))


def test_state_dict_names_are_detectron2s():
    keys = list(pyramid(16, (4.0, 2.0, 1.0, 0.5)).state_dict())
    conv = ("weight", "norm.weight", "norm.bias")
    expected = ["simfp_2.0.weight", "simfp_2.0.bias", "simfp_2.1.weight", "simfp_2.1.bias", "simfp_2.3.weight"]
    expected += ["simfp_2.3.bias", *(f"simfp_2.{i}.{key}" for i in (4, 5) for key in conv)]
    expected += ["simfp_3.0.weight", "simfp_3.0.bias", *(f"simfp_3.{i}.{key}" for i in (1, 2) for key in conv)]
    expected += [f"simfp_4.{i}.{key}" for i in (0, 1) for key in conv]
    expected += [f"simfp_5.{i}.{key}" for i in (1, 2) for key in conv]
    assert keys == [*expected, "net.proj.weight", "net.proj.bias"]


@pytest.mark.parametrize("norm", ["", "LN", "GN", "BN"])
@pytest.mark.parametrize("scale", [4.0, 2.0, 1.0, 0.5, 0.25])
def test_every_scale_runs_with_every_norm(norm, scale):
    model = SimpleFeaturePyramid(PatchNet(16, channels=128), "p-1", 32, (scale,), norm=norm)
    (level,) = model(random_images(2, 3, 128, 192)).values()
    assert level.shape == (2, 32, int(8 * scale), int(12 * scale))
    convolutions = [m for m in model.modules() if type(m).__name__ == "Conv2d" and m is not model.net.proj]
    assert all((convolution.bias is not None) == (norm == "") for convolution in convolutions)


def test_square_pad_is_passed_on():
    model = pyramid(16, square_pad=128)
    assert model.padding_constraints["square_size"] == 128
    batch = ImageList.from_tensors([random_images(3, 40, 90)], padding_constraints=model.padding_constraints)
    assert tuple(batch.tensor.shape[-2:]) == (128, 128)


def test_size_divisibility_covers_what_the_net_asks_for():
    class Picky(PatchNet):
        size_divisibility = 48

    model = SimpleFeaturePyramid(Picky(16), "p-1", 8, (1.0, 0.5))
    assert model.size_divisibility == math.lcm(48, 32)


@pytest.mark.parametrize(
    ("kind", "text", "arguments"),
    [
        (AssertionError, "Conv2d", (nn.Conv2d(3, 3, 3), "p-1", 8, (1.0,))),
        (AssertionError, r"\[8, 32\]", (PatchNet(16), "p-1", 8, (2.0, 0.5))),
        (NotImplementedError, "scale factor 8.0", (PatchNet(16), "p-1", 8, (8.0,))),
        (ValueError, "'p5'.*there are: p-1", (PatchNet(16), "p5", 8, (1.0,))),
    ],
)
def test_what_cannot_be_built_is_refused(kind, text, arguments):
    with pytest.raises(kind, match=text):
        SimpleFeaturePyramid(*arguments)
