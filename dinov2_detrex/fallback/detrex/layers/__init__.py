"""detrex's layers by their names. Those of the detector are dinov2_detrex's own."""

from detrex.layers.position_embedding import PositionEmbeddingSine

from dinov2_detrex.engine import reexport

__all__ = ["PositionEmbeddingSine"]

_DETECTOR = "dinov2_detrex.detector"

__getattr__ = reexport(
    __name__,
    {
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
