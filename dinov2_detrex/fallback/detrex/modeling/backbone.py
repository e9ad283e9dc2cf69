"""`detrex.modeling.backbone` by name; it is dinov2_detrex's own."""

from dinov2_detrex.engine import reexport

__getattr__ = reexport(
    __name__,
    {
        "TimmBackbone": "dinov2_detrex.backbone",
        "SimpleFeaturePyramid": "dinov2_detrex.backbone",
        "get_vit_lr_decay_rate": "dinov2_detrex.backbone",
    },
)
