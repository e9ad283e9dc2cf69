"""From image to feature pyramid: timm's DINOv2 (and any other model) as a detectron2 `Backbone`."""

from dinov2_detrex.backbone.lr_factors import BackboneLrFactor, get_vit_lr_decay_rate
from dinov2_detrex.backbone.param_groups import describe_param_groups, get_optimizer_params
from dinov2_detrex.backbone.pyramid import SimpleFeaturePyramid
from dinov2_detrex.backbone.timm_backbone import TimmBackbone
from dinov2_detrex.backbone.weight_files import WeightsError

__all__ = [
    "BackboneLrFactor",
    "SimpleFeaturePyramid",
    "TimmBackbone",
    "WeightsError",
    "describe_param_groups",
    "get_optimizer_params",
    "get_vit_lr_decay_rate",
]
