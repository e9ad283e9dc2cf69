"""The part of detectron2's models that a DETR-like detector shares: backbone interface and post-processing."""

from detectron2.layers import ShapeSpec
from detectron2.left_out import refuse

from .backbone import FPN, Backbone, ResNet, ViT, vit
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

_LEFT_OUT = ("GeneralizedRCNN", "META_ARCH_REGISTRY", "MViT", "RetinaNet", "SwinTransformer", "build_model")
_refuse = refuse(__name__, *_LEFT_OUT)


def __getattr__(name: str):
    """The names that live in dinov2_detrex, at first use; what the slice lacks, refused."""
    return getattr(vit, name) if name in vit.OURS else _refuse(name)
