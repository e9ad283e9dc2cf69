"""The DINO detector and its parts, with detrex's constructor arguments and state-dict names."""

from dinov2_detrex.detector.box_ops import (
    box_cxcywh_to_xyxy,
    box_iou,
    box_xyxy_to_cxcywh,
    generalized_box_iou,
)
from dinov2_detrex.detector.criterion import DINOCriterion
from dinov2_detrex.detector.decoder import DINOTransformerDecoder
from dinov2_detrex.detector.deformable_attention import (
    MultiScaleDeformableAttention,
    multi_scale_deformable_attention,
)
from dinov2_detrex.detector.dino import DINO
from dinov2_detrex.detector.encoder import DINOTransformerEncoder
from dinov2_detrex.detector.layers import FFN, MLP, MultiheadAttention, inverse_sigmoid
from dinov2_detrex.detector.matcher import HungarianMatcher, NonFinitePredictions
from dinov2_detrex.detector.position import get_sine_pos_embed
from dinov2_detrex.detector.transformer import DINOTransformer

__all__ = [
    "DINO",
    "DINOCriterion",
    "DINOTransformer",
    "DINOTransformerDecoder",
    "DINOTransformerEncoder",
    "FFN",
    "MLP",
    "HungarianMatcher",
    "MultiScaleDeformableAttention",
    "MultiheadAttention",
    "NonFinitePredictions",
    "box_cxcywh_to_xyxy",
    "box_iou",
    "box_xyxy_to_cxcywh",
    "generalized_box_iou",
    "get_sine_pos_embed",
    "inverse_sigmoid",
    "multi_scale_deformable_attention",
]
