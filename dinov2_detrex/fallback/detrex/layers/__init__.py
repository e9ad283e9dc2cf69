"""detrex's layers by their names; each is dinov2_detrex's own."""

from dinov2_detrex.engine import reexport

_DETECTOR = "dinov2_detrex.detector"

__getattr__ = reexport(
    __name__,
    {
        "PositionEmbeddingSine": _DETECTOR,
        "get_sine_pos_embed": _DETECTOR,
        "MLP": _DETECTOR,
        "FFN": _DETECTOR,
        "MultiheadAttention": _DETECTOR,
        "MultiScaleDeformableAttention": _DETECTOR,
        "box_cxcywh_to_xyxy": _DETECTOR,
        "box_xyxy_to_cxcywh": _DETECTOR,
        "box_iou": _DETECTOR,
        "generalized_box_iou": _DETECTOR,
        "ShapeSpec": "detectron2.layers",
    },
)
