"""Patch kernels and positional grids of other sizes: against timm, EVA's script (golden), and by what must be kept."""

import pytest
import timm
import torch
import torch.nn.functional as F
from golden_numbers import load_npz
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_vits import PLAIN, REGISTERS, TINY, random_images, relative_error, tiny_vit

from dinov2_detrex.backbone import TimmBackbone
from dinov2_detrex.backbone.position import resample_pos_embed
from dinov2_detrex.backbone.resampling import resample_kernel

GOLDEN = load_npz("patch_14to16.npz")


@pytest.mark.parametrize(("method", "key"), [("pi", "timm_pi_resize16"), ("bicubic", "eva_bicubic16")])
def test_resampled_kernel_equals_the_golden_one(method, key):
    """Processors differ in the pseudo-inverse, which timm takes in float32: 2e-6 on one, 1.4e-6 from float64's."""
    assert relative_error(resample_kernel(GOLDEN["kernel14"], (16, 16), method), GOLDEN[key]) < 1e-5


@settings(max_examples=8, derandomize=True)
@given(new=st.integers(6, 28), seed=st.integers(0, 99))
def test_pi_resize_equals_timms_at_any_size(new, seed):
    kernel = random_images(4, 3, 14, 14, seed=seed)
    expected = timm.layers.resample_patch_embed(kernel, [new, new])
    assert relative_error(resample_kernel(kernel, (new, new), "pi"), expected) < 1e-6


@settings(max_examples=8, derandomize=True)
@given(new=st.integers(14, 24), seed=st.integers(0, 99), constant=st.booleans())
def test_pi_resize_keeps_the_embedding_of_an_enlarged_patch(new, seed, constant):
    """FlexiViT's defining property: <enlarged patch, resized kernel> = <patch, kernel>."""
    kernel = random_images(8, 3, 14, 14, seed=seed)
    patch = random_images(5, 3, 14, 14, seed=seed + 1)
    if constant:
        patch = patch[:, :, :1, :1].expand(-1, -1, 14, 14)
    enlarged = F.interpolate(patch, size=(new, new), mode="bicubic", antialias=True)
    actual = F.conv2d(enlarged, resample_kernel(kernel, (new, new), "pi"))
    assert relative_error(actual, F.conv2d(patch, kernel)) < 1e-3


def test_bicubic_resize_does_not_keep_it():
    kernel, patch = random_images(8, 3, 14, 14), torch.ones(1, 3, 14, 14)
    enlarged = torch.ones(1, 3, 16, 16)
    error = relative_error(F.conv2d(enlarged, resample_kernel(kernel, (16, 16), "bicubic")), F.conv2d(patch, kernel))
    assert error > 0.1  # the sum of a constant patch grows by (16 / 14)^2


def test_an_equal_patch_is_left_alone_and_an_unknown_method_refused():
    assert resample_kernel(GOLDEN["kernel14"], (14, 14), "bicubic") is GOLDEN["kernel14"]
    with pytest.raises(ValueError, match="nearest.*'pi', 'bicubic'"):
        TimmBackbone(PLAIN, patch_resample="nearest", **TINY)


@pytest.fixture
def checkpoint14(tmp_path):
    """A file of a tiny patch-14 model with a 37 x 37 grid, and its state dict."""
    state = tiny_vit(img_size=518, norm=True).vit.state_dict()
    torch.save(state, tmp_path / "tiny14.pth")
    return str(tmp_path / "tiny14.pth"), state


def test_img_size_592_at_patch_16_keeps_the_grid_of_a_518_pixel_checkpoint(checkpoint14):
    path, state = checkpoint14
    backbone = TimmBackbone(PLAIN, patch_size=16, img_size=592, checkpoint_path=path, **TINY)
    assert torch.equal(backbone.vit.pos_embed, state["pos_embed"])
    kernel = backbone.vit.patch_embed.proj.weight
    assert torch.equal(kernel, timm.layers.resample_patch_embed(state["patch_embed.proj.weight"], [16, 16]))
    assert "patch 14x14 -> 16x16 (pi)" in backbone.weights_report
    assert "positions" not in backbone.weights_report


@pytest.mark.parametrize("patch_size", [8, 12, 20])
def test_patch_resample_argument_chooses_the_method(patch_size, checkpoint14):
    path, state = checkpoint14
    for method in ("pi", "bicubic"):
        backbone = TimmBackbone(
            PLAIN, patch_size=patch_size, img_size=37 * patch_size, checkpoint_path=path, patch_resample=method, **TINY
        )
        expected = resample_kernel(state["patch_embed.proj.weight"], (patch_size, patch_size), method)
        assert torch.equal(backbone.vit.patch_embed.proj.weight, expected)
        assert backbone.output_shape()["p-1"].stride == backbone.size_divisibility == patch_size


@pytest.mark.parametrize("mode", ["hub", "timm"])
def test_another_grid_is_resampled_like_the_features_would_be_and_reported(mode, checkpoint14):
    path, state = checkpoint14
    backbone = TimmBackbone(PLAIN, img_size=224, checkpoint_path=path, pos_embed=mode, **TINY)
    expected = resample_pos_embed(state["pos_embed"], (37, 37), (16, 16), 1, mode)
    assert torch.equal(backbone.vit.pos_embed, expected)
    assert "positions 37x37 -> 16x16 (img_size=518 would keep them)" in backbone.weights_report


def test_features_at_the_image_size_do_not_depend_on_the_stored_grid(checkpoint14):
    """Positions resampled once on loading, or once in the forward: the same."""
    path, _ = checkpoint14
    images = random_images(1, 3, 140, 196)
    with torch.no_grad():
        kept, resampled = (
            TimmBackbone(PLAIN, img_size=size, checkpoint_path=path, **TINY).eval()(images)["p-1"]
            for size in (518, (140, 196))
        )
    assert relative_error(resampled, kept) < 1e-6


@pytest.mark.parametrize("name", [PLAIN, REGISTERS])
@pytest.mark.parametrize("in_channels", [1, 4])
def test_kernel_for_other_channels_is_adapted_as_timm_does(name, in_channels, tmp_path):
    state = tiny_vit(name).vit.state_dict()
    torch.save(state, tmp_path / "rgb.pth")
    backbone = tiny_vit(name, in_channels=in_channels, checkpoint_path=str(tmp_path / "rgb.pth"))
    twin = timm.create_model(name, in_chans=in_channels, img_size=112, pretrained=True, **TINY, **overlay(state))
    fresh = TimmBackbone(name, in_channels=in_channels, img_size=112, checkpoint_path=str(tmp_path / "rgb.pth"), **TINY)
    assert torch.equal(fresh.vit.patch_embed.proj.weight, twin.patch_embed.proj.weight)
    assert f"input channels 3 -> {in_channels}" in fresh.weights_report
    assert backbone(random_images(1, in_channels, 84, 140))["p-1"].shape == (1, 64, 6, 10)


def overlay(state):
    norm = {"norm.weight": torch.ones(64), "norm.bias": torch.zeros(64)}
    return {"pretrained_cfg_overlay": {"state_dict": {**norm, **state}}}
