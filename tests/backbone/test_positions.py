"""Positional embeddings at sizes other than the native one, against timm and by hand; image sizes that do not fit."""

import pytest
import timm
import torch
import torch.nn.functional as F
from tiny_vits import DINOV3, PLAIN, REGISTERS, TINY, random_images, randomise, relative_error, tiny_vit

from dinov2_detrex.backbone import TimmBackbone

SIZES = [(112, 112), (84, 140), (224, 182), (56, 224)]


@pytest.mark.parametrize("name", [PLAIN, REGISTERS])
@pytest.mark.parametrize("norm", [False, True], ids=["prenorm", "norm"])
def test_timm_mode_equals_timms_own_features(name, norm):
    backbone = tiny_vit(name, pos_embed="timm", norm=norm, out_indices=(0, 1, 2))
    twin = timm.create_model(name, img_size=112, dynamic_img_size=True, **TINY)
    twin.load_state_dict(backbone.vit.state_dict(), strict=norm)
    for size in SIZES:
        images = random_images(2, 3, *size)
        with torch.no_grad():
            expected = twin.eval().forward_intermediates(images, norm=norm, intermediates_only=True)
            actual = backbone(images)
        for i, feature_map in enumerate(expected):
            assert relative_error(actual[f"p{i}"], feature_map) < 1e-6, (size, i)


def test_timm_mode_equals_timms_features_only():
    backbone = tiny_vit(pos_embed="timm")
    extractor = timm.create_model(
        PLAIN, features_only=True, out_indices=(-1,), img_size=112, dynamic_img_size=True, **TINY
    )
    extractor.load_state_dict(backbone.timm_model.state_dict())
    for size in SIZES:
        images = random_images(1, 3, *size)
        with torch.no_grad():
            assert relative_error(backbone(images)["p-1"], extractor.eval()(images)[0]) < 1e-6, size


@pytest.mark.parametrize("size", SIZES)
def test_both_modes_agree_at_the_native_size_and_for_register_models(size):
    for name, agree in ((PLAIN, size == (112, 112)), (REGISTERS, True)):
        images = random_images(1, 3, *size)
        with torch.no_grad():
            hub, by_timm = (tiny_vit(name, pos_embed=mode)(images)["p-1"] for mode in ("hub", "timm"))
        error = relative_error(hub, by_timm)
        assert (error < 1e-6) if agree else (error > 1e-4), (name, error)


def test_hub_mode_samples_at_the_originals_shifted_points():
    """Plain reference: bicubic weights (a = -0.75) at (i + 0.5) * n0 / (n + 0.1) - 0.5, borders clamped."""
    from dinov2_detrex.backbone.position import resample_grid

    grid = random_images(1, 8, 8, 3)
    actual = resample_grid(grid, (6, 10), "hub")
    rows, columns = (bicubic_matrix(8, n, 8 / (n + 0.1)) for n in (6, 10))
    expected = torch.einsum("ih,jw,bhwc->bijc", rows, columns, grid.double())
    assert relative_error(actual.double(), expected) < 1e-5


def bicubic_matrix(n_in: int, n_out: int, step: float, a: float = -0.75) -> torch.Tensor:
    """(n_out, n_in) matrix of Keys' cubic convolution."""
    matrix = torch.zeros(n_out, n_in, dtype=torch.float64)
    for i in range(n_out):
        centre = (i + 0.5) * step - 0.5
        for k in range(int(centre // 1) - 1, int(centre // 1) + 3):
            d = abs(centre - k)
            near = (a + 2) * d**3 - (a + 3) * d**2 + 1
            far = a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a
            matrix[i, min(max(k, 0), n_in - 1)] += near if d <= 1 else far if d < 2 else 0.0
    return matrix


@pytest.mark.parametrize(
    ("kwargs", "mode"),
    [
        ({}, "hub"),
        ({"dynamic_img_size": True}, "timm"),
        ({"dynamic_img_size": True, "pos_embed": "hub"}, "hub"),
        ({"pos_embed": "timm"}, "timm"),
    ],
)
def test_mode_is_hub_unless_timms_own_keyword_or_the_caller_says_otherwise(kwargs, mode):
    assert TimmBackbone(PLAIN, img_size=112, **TINY, **kwargs).pos_embed_mode == mode


def test_a_vit_of_other_origin_follows_timm_in_both_modes():
    hub, by_timm = (
        randomise(TimmBackbone("vit_tiny_patch16_224", depth=1, pos_embed=mode, pretrained=False))
        for mode in ("hub", "timm")
    )
    by_timm.load_state_dict(hub.state_dict())
    images = random_images(1, 3, 96, 160)
    with torch.no_grad():
        assert torch.equal(hub(images)["p-1"], by_timm(images)["p-1"])


def test_unknown_mode_is_named_with_the_choices():
    with pytest.raises(ValueError, match="bilinear.*'hub', 'timm'"):
        TimmBackbone(PLAIN, pos_embed="bilinear", **TINY)


@pytest.mark.parametrize("name", [PLAIN, DINOV3])
def test_image_that_the_patch_does_not_divide_is_refused_with_both_sizes(name):
    backbone = tiny_vit(name)
    patch = backbone.size_divisibility
    with pytest.raises(ValueError, match=f"100 x {4 * patch} pixels is not a multiple of the patch {patch} x {patch}"):
        backbone(random_images(1, 3, 100, 4 * patch))


@pytest.mark.parametrize("name", [PLAIN, REGISTERS])
def test_dynamic_img_pad_pads_to_the_next_patch(name):
    padding = tiny_vit(name, dynamic_img_pad=True)
    plain = tiny_vit(name)
    images = random_images(1, 3, 100, 130)
    with torch.no_grad():
        actual = padding(images)["p-1"]
        assert actual.shape[-2:] == (8, 10)
        assert relative_error(actual, plain(F.pad(images, (0, 10, 0, 12)))["p-1"]) < 1e-6


def test_gradients_reach_the_positions_at_any_size():
    backbone = tiny_vit()
    backbone(random_images(1, 3, 84, 140))["p-1"].square().sum().backward()
    assert backbone.vit.pos_embed.grad.abs().max() > 0


def test_autocast_changes_little():
    backbone, images = tiny_vit(), random_images(1, 3, 84, 140)
    with torch.no_grad():
        expected = backbone(images)["p-1"]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            actual = backbone(images)["p-1"]
    assert relative_error(actual.float(), expected) < 0.05


class AsTuple(torch.nn.Module):
    """The maps in order; tracing takes no dict."""

    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone

    def forward(self, images):
        return tuple(self.backbone(images).values())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", [PLAIN, REGISTERS, DINOV3])
@pytest.mark.parametrize("how", ["jit.trace", "export"])
def test_backbone_can_be_traced_at_a_size_of_its_own(name, how):
    model = AsTuple(tiny_vit(name, freeze=True, window_size=4)).eval()
    patch = model.backbone.size_divisibility
    example, images = (random_images(1, 3, 6 * patch, 10 * patch, seed=seed) for seed in (1, 2))
    if how == "export":
        traced = torch.export.export(model, (example,)).module()
    else:
        traced = torch.jit.trace(model, (example,))
    assert relative_error(traced(images)[0], model(images)[0]) < 1e-6
