"""Several layers of a ViT go into one pyramid; one layer makes the pyramid that it always made."""

import pytest
import torch
from tiny_vits import random_images, randomise, tiny_vit
from torch.nn import functional as F

from dinov2_detrex.backbone import SimpleFeaturePyramid


def pyramid(in_feature, out_indices=(0, 1, 2), **kwargs):
    net = tiny_vit(out_indices=out_indices)
    torch.manual_seed(0)
    return randomise(SimpleFeaturePyramid(net, in_feature, 8, (2.0, 1.0), **kwargs))


def layer_normed(x, norm):
    """Over the channels of (B, C, H, W), by torch's own layer norm."""
    return F.layer_norm(x.movedim(1, -1), x.shape[1:2], norm.weight, norm.bias, 1e-6).movedim(-1, 1)


def fused_plainly(model, x):
    maps = [layer_normed(y, norm) for norm, y in zip(model.fusion.norms, model.net(x).values(), strict=True)]
    if model.fusion.projection is None:
        return maps[0] + maps[1] + maps[2]
    weight, bias = model.fusion.projection.weight[:, :, 0, 0], model.fusion.projection.bias
    return torch.einsum("bchw,dc->bdhw", torch.cat(maps, 1), weight) + bias[:, None, None]


@pytest.mark.parametrize("fusion", ["sum", "concat"])
def test_every_level_is_made_from_all_the_layers(fusion):
    model, x = pyramid(["p0", "p1", "p2"], fusion=fusion), random_images(2, 3, 112, 56)
    with torch.no_grad():
        levels, wanted = model(x), fused_plainly(model, x)
        torch.testing.assert_close(levels["p4"], model.simfp_4(wanted), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(levels["p3"], model.simfp_3(wanted), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("fusion", ["sum", "concat"])
def test_every_layer_gets_a_gradient(fusion):
    model = pyramid(["p0", "p1", "p2"], fusion=fusion).train()
    sum(level.square().sum() for level in model(random_images(1, 3, 56, 56)).values()).backward()
    assert all(norm.weight.grad.abs().max() > 0 for norm in model.fusion.norms)


def test_a_list_of_one_is_that_layer_with_its_state_dict():
    x, plain, listed = random_images(1, 3, 56, 56), pyramid("p2"), pyramid(["p2"])
    assert plain.state_dict().keys() == listed.state_dict().keys() and plain.fusion is None
    with torch.no_grad():
        assert all(torch.equal(a, b) for a, b in zip(plain(x).values(), listed(x).values(), strict=True))


def test_by_choice_every_level_is_made_from_its_own_layer_alone():
    model, x = pyramid(["p2", "p0"], fusion="choice"), random_images(2, 3, 112, 56)
    with torch.no_grad():
        maps, levels = model.net(x), model(x)
        for level, stage, source, norm in zip(("p3", "p4"), ("simfp_3", "simfp_4"), ("p2", "p0"), model.fusion.norms):
            wanted = getattr(model, stage)(layer_normed(maps[source], norm))
            torch.testing.assert_close(levels[level], wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "in_feature, fusion, message",
    [
        (["p0", "p7"], "sum", "'p7' is not an output of net; there are: p0, p1, p2"),
        (["p0", "p2"], "product", "'product'"),
        (["p0", "p1", "p2"], "choice", "a map for each of 2 levels, not 3 maps"),
    ],
)
def test_layers_that_there_are_not_are_refused(in_feature, fusion, message):
    with pytest.raises(ValueError, match=message):
        pyramid(in_feature, fusion=fusion)


def test_layers_that_the_vit_does_not_have_are_refused():
    with pytest.raises((ValueError, RuntimeError, AssertionError), match="15"):
        tiny_vit(out_indices=(2, 15))
