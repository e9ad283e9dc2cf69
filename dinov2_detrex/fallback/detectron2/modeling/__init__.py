"""The part of detectron2's models that a DETR-like detector shares: backbone interface and post-processing."""

from detectron2.layers import ShapeSpec

from dinov2_detrex.engine import reexport

from .backbone import FPN, Backbone, ResNet, ViT
from .postprocessing import detector_postprocess

__all__ = [
    "FPN",
    "Backbone",
    "ResNet",
    "ShapeSpec",
    "SimpleFeaturePyramid",
    "ViT",
    "detector_postprocess",
    "get_vit_lr_decay_rate",
]
__getattr__ = reexport(__name__, "SimpleFeaturePyramid", "get_vit_lr_decay_rate")
