"""detrex's layers by their names. Those of the detector are dinov2_detrex's own."""

from detectron2.layers import ShapeSpec
from detrex.layers.position_embedding import PositionEmbeddingSine

from dinov2_detrex.engine import reexport

_OF_THE_DETECTOR = (
    "FFN",
    "MLP",
    "MultiScaleDeformableAttention",
    "MultiheadAttention",
    "box_cxcywh_to_xyxy",
    "box_iou",
    "box_xyxy_to_cxcywh",
    "generalized_box_iou",
    "get_sine_pos_embed",
)
__all__ = ["PositionEmbeddingSine", "ShapeSpec", *_OF_THE_DETECTOR]
__getattr__ = reexport(__name__, *_OF_THE_DETECTOR)
