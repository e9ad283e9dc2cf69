"""What backbones promise, what post-processing does, and what stands for backbones that are not provided."""

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone, detector_postprocess
from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from detectron2.structures import Boxes, Instances


class TwoMaps(Backbone):
    def __init__(self):
        super().__init__()
        self._out_features = ["b", "a"]
        self._out_feature_channels = {"a": 3, "b": 5}
        self._out_feature_strides = {"a": 4, "b": 8}

    def forward(self, x):
        return {name: x for name in self._out_features}


def test_a_backbone_cannot_be_made_without_forward():
    with pytest.raises(TypeError):
        Backbone()


def test_a_backbone_declares_its_maps_in_order():
    shapes = TwoMaps().output_shape()
    assert list(shapes) == ["b", "a"]
    assert shapes == {"a": ShapeSpec(channels=3, stride=4), "b": ShapeSpec(channels=5, stride=8)}


def test_a_backbone_asks_for_no_padding_by_default():
    assert TwoMaps().size_divisibility == 0
    assert TwoMaps().padding_constraints == {}


@pytest.mark.parametrize("hw", [(8, 6), (7, 5), (1, 1)])
def test_the_last_level_takes_every_second_cell(hw):
    x = torch.rand(2, 3, *hw)
    (pooled,) = LastLevelMaxPool()(x)
    assert torch.equal(pooled, x[:, :, 0::2, 0::2])
    assert LastLevelMaxPool().num_levels == 1 and LastLevelMaxPool().in_feature == "p5"
    assert not LastLevelMaxPool().state_dict()


def predictions(field: str = "pred_boxes") -> Instances:
    boxes = Boxes([[10.0, 10, 30, 20], [90.0, 40, 200, 60], [120.0, 0, 130, 10]])  # the last is outside
    return Instances((50, 100), **{field: boxes, "scores": torch.tensor([0.3, 0.2, 0.1])})


@pytest.mark.parametrize("field", ["pred_boxes", "proposal_boxes"])
def test_boxes_are_scaled_clipped_and_dropped_when_empty(field):
    result = detector_postprocess(predictions(field), 100, 300)
    assert result.image_size == (100, 300)
    assert result.get(field).tensor.tolist() == [[30, 20, 90, 40], [270, 80, 300, 100]]
    torch.testing.assert_close(result.scores, torch.tensor([0.3, 0.2]))


def test_postprocessing_needs_boxes_that_are_finite():
    with pytest.raises(AssertionError):
        detector_postprocess(Instances((5, 5), scores=torch.zeros(1)), 5, 5)
    with pytest.raises(AssertionError):
        detector_postprocess(Instances((5, 5), pred_boxes=Boxes([[0, 0, float("nan"), 1]])), 5, 5)


@pytest.mark.fallback("detectron2")
def test_a_config_may_name_the_resnet_stages():
    from detectron2.config import LazyCall as L
    from detectron2.config import instantiate
    from detectron2.modeling.backbone import BasicStem, ResNet

    stages = L(ResNet.make_default_stages)(depth=50)
    config = L(ResNet)(stem=L(BasicStem)(in_channels=3), stages=stages)
    with pytest.raises(NotImplementedError, match="TimmBackbone"):
        instantiate(config)


@pytest.mark.parametrize("name", ["SimpleFeaturePyramid", "get_vit_lr_decay_rate"])
def test_the_vit_names_are_importable_from_where_configs_look(name):
    import detectron2.modeling
    import detectron2.modeling.backbone
    import detectron2.modeling.backbone.vit

    found = {getattr(module, name) for module in (detectron2.modeling, detectron2.modeling.backbone)}
    assert found == {getattr(detectron2.modeling.backbone.vit, name)}


@pytest.mark.fallback("detectron2")
def test_the_vit_names_are_this_projects_own():
    import detectron2.modeling

    import dinov2_detrex.backbone

    assert detectron2.modeling.SimpleFeaturePyramid is dinov2_detrex.backbone.SimpleFeaturePyramid
