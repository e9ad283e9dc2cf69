"""A frozen backbone with a cache gives what it gives without, and computes an image once."""

import copy

import pytest
import torch
from tiny_vits import PLAIN, REGISTERS, random_images, tiny_vit

from dinov2_detrex.backbone.feature_cache import FeatureCache
from dinov2_detrex.backbone.feature_store import FeatureStore
from dinov2_detrex.runtime.errors import UsageError

IMAGES = random_images(3, 3, 112, 84)


@pytest.fixture
def cached(tmp_path):
    """A frozen backbone with a fresh cache on the test's folder."""

    def make(name=PLAIN, dtype=None, **kwargs):
        backbone = tiny_vit(name, freeze=True, **kwargs).train()
        backbone.keep_features(FeatureCache(FeatureStore(tmp_path, 10**9), dtype))
        return backbone

    return make


def counts(backbone):
    return backbone.feature_cache.found, backbone.feature_cache.computed


def assert_equal(one, other):
    assert list(one) == list(other)
    assert all(torch.equal(one[name], other[name]) and one[name].dtype == other[name].dtype for name in one)


def test_an_image_is_computed_once_and_its_features_are_the_plain_ones_to_the_bit(cached):
    options = dict(name=REGISTERS, out_indices=(0, 2), return_prefix_tokens=True)
    plain, backbone = tiny_vit(freeze=True, **options).train(), cached(**options)
    assert_equal(backbone(IMAGES), plain(IMAGES))
    assert_equal(backbone(IMAGES.flip(0)), plain(IMAGES.flip(0)))
    assert counts(backbone) == (3, 3)
    again = cached(**options)  # as another run would build it
    assert_equal(again(IMAGES[1:]), plain(IMAGES[1:]))
    assert counts(again) == (2, 0) and not any(value.requires_grad for value in again(IMAGES).values())


def test_evaluation_takes_what_training_kept(cached):
    backbone = cached()
    trained = backbone(IMAGES)
    with torch.inference_mode():
        assert_equal(backbone.eval()(IMAGES), trained)
    assert counts(backbone) == (3, 3)


@pytest.mark.parametrize(
    "changed", [{"seed": 1}, {"norm": True}, {"window_size": 2}, {"out_indices": (1,)}, {"pos_embed": "timm"}]
)
def test_another_model_computes_anew(cached, changed):
    cached()(IMAGES)
    backbone = cached(**changed)
    backbone(IMAGES)
    assert counts(backbone) == (0, 3)


@pytest.mark.parametrize(
    "images", [IMAGES + 1e-6, IMAGES[..., :70], torch.nn.functional.pad(IMAGES, (0, 14)), IMAGES.flip(-1)]
)
def test_other_pixels_or_padding_compute_anew(cached, images):
    backbone = cached()
    backbone(IMAGES)
    backbone(images)
    assert counts(backbone) == (0, 6)


def test_another_precision_computes_anew_and_stands_beside_it(cached):
    backbone = cached()
    exact = backbone(IMAGES)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = backbone(IMAGES)
        assert_equal(backbone(IMAGES), rounded)
    assert counts(backbone) == (3, 6) and not torch.equal(exact["p-1"], rounded["p-1"].float())
    assert_equal(backbone(IMAGES), exact)


def test_weights_that_change_compute_anew(cached):
    backbone = cached()
    before = backbone(IMAGES)["p-1"]
    state = copy.deepcopy(backbone.state_dict())
    with torch.no_grad():
        backbone.vit.cls_token.add_(1)
    assert not torch.equal(backbone(IMAGES)["p-1"], before)
    backbone.load_state_dict(state)
    assert torch.equal(backbone(IMAGES)["p-1"], before)
    assert counts(backbone) == (3, 6)


def test_bfloat16_rounds_once_and_the_same_whether_kept_or_computed(cached):
    backbone = cached(dtype=torch.bfloat16)
    computed, kept = backbone(IMAGES), backbone(IMAGES)
    assert_equal(kept, computed)
    assert torch.equal(computed["p-1"], tiny_vit(freeze=True)(IMAGES)["p-1"].bfloat16().float())


@pytest.mark.parametrize("freeze", [False, 2, "embed"])
def test_a_backbone_that_trains_is_refused_in_a_line(tmp_path, freeze):
    with pytest.raises(UsageError, match=rf"{PLAIN} trains: set model\.backbone\.net\.freeze=true"):
        tiny_vit(freeze=freeze).keep_features(FeatureCache(FeatureStore(tmp_path, 10**9)))


def test_a_part_that_was_thawed_later_is_refused_too(tmp_path):
    backbone = tiny_vit(freeze=True)
    backbone.vit.cls_token.requires_grad_(True)
    with pytest.raises(UsageError, match="trains"):
        backbone.keep_features(FeatureCache(FeatureStore(tmp_path, 10**9)))
