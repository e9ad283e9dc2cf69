"""How good are detections? COCO's average precision of boxes, by a fast library or by pycocotools."""

from dinov2_detrex.evaluation.box_ap import BoxAP, evaluate_boxes
from dinov2_detrex.evaluation.coco import COCOEvaluator

__all__ = ["BoxAP", "COCOEvaluator", "evaluate_boxes"]
