"""The `Backbone` interface, and names of detectron2's backbones that configs mention."""

from detectron2.left_out import refuse

from . import vit
from .backbone import Backbone
from .fpn import FPN
from .resnet import BasicStem, ResNet
from .vit import ViT

__all__ = ["FPN", "Backbone", "BasicStem", "ResNet", "SimpleFeaturePyramid", "ViT", "get_vit_lr_decay_rate"]

_LEFT_OUT = ("BACKBONE_REGISTRY", "MViT", "ResNetBlockBase", "SwinTransformer", "build_backbone", "make_stage")
_refuse = refuse(__name__, *_LEFT_OUT, hint="dinov2_detrex.TimmBackbone builds any timm model")


def __getattr__(name: str):
    """The names that live in dinov2_detrex, at first use; what the slice lacks, refused."""
    return getattr(vit, name) if name in vit.OURS else _refuse(name)
