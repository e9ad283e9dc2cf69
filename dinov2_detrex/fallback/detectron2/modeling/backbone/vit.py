"""The ViT side of detectron2's backbones: this project's pyramid and decay function, and the name `ViT`."""

from .not_provided import NotProvided

OURS = ("SimpleFeaturePyramid", "get_vit_lr_decay_rate")


class ViT(NotProvided):
    """Named by base configs, not provided here."""


def __getattr__(name: str):
    """This project's own names arrive at first use: their package imports `Backbone` from here."""
    if name not in OURS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import dinov2_detrex.backbone

    return getattr(dinov2_detrex.backbone, name)
