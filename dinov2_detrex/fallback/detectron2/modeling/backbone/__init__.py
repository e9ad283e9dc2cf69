"""The `Backbone` interface, and names of detectron2's backbones that configs mention."""

from dinov2_detrex.engine import reexport

from .backbone import Backbone
from .fpn import FPN
from .resnet import BasicStem, ResNet
from .vit import ViT

__all__ = ["FPN", "Backbone", "BasicStem", "ResNet", "SimpleFeaturePyramid", "ViT", "get_vit_lr_decay_rate"]
__getattr__ = reexport(__name__, "SimpleFeaturePyramid", "get_vit_lr_decay_rate")
