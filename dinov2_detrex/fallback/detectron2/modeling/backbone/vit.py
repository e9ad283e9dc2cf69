"""The ViT side of detectron2's backbones: this project's pyramid and decay function, and the name `ViT`."""

from dinov2_detrex.engine import NotProvided, reexport

__getattr__ = reexport(__name__, "SimpleFeaturePyramid", "get_vit_lr_decay_rate")


class ViT(NotProvided):
    """Named by base configs, not provided here."""
