"""`detrex.modeling.backbone` by name; it is dinov2_detrex's own."""

from dinov2_detrex.engine import reexport

__getattr__ = reexport(__name__, "SimpleFeaturePyramid", "TimmBackbone", "get_vit_lr_decay_rate")
