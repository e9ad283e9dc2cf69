"""How predictions become detections: the best (query, class) pairs, as boxes in pixels. No suppression is needed."""

import torch
from detectron2.modeling import detector_postprocess
from detectron2.structures import Boxes, Instances
from torch import Tensor

from dinov2_detrex.detector.box_ops import box_cxcywh_to_xyxy
from dinov2_detrex.detector.matcher import NonFinitePredictions


def best_detections(probabilities: Tensor, boxes: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """The `count` most probable (query, class) pairs of every image; a query may occur with several classes.

    Args:
        probabilities: (B, Q, K).
        boxes: (B, Q, 4), CXCYWH normalised.
        count: clamped to Q * K.

    Returns:
        scores (B, n) descending, classes (B, n), and boxes (B, n, 4), XYXY normalised.
    """
    num_classes = probabilities.shape[-1]
    flat = probabilities.flatten(1)
    scores, index = flat.topk(min(count, flat.shape[1]), dim=1)
    query = index // num_classes
    chosen = boxes.gather(1, query[..., None].expand(-1, -1, 4))
    return scores, index % num_classes, box_cxcywh_to_xyxy(chosen)


def to_instances(
    scores: Tensor, classes: Tensor, boxes: Tensor, image_hw: tuple[int, int], output_hw: tuple[int, int]
) -> Instances:
    """One image's detections, boxes scaled to `output_hw` pixels and clipped; empty boxes and zero scores left out.

    Args:
        scores, classes, boxes: (n,), (n,), and (n, 4) XYXY normalised to the image.
        image_hw: size of the network's input, without padding.
        output_hw: size of the image that the boxes should refer to.

    Raises:
        NonFinitePredictions: an AssertionError.
    """
    if not bool(torch.isfinite(boxes).all() & ~scores.isnan().any()):
        raise NonFinitePredictions("the detector's boxes or scores contain NaN or infinite values")
    height, width = image_hw
    keep = scores > 0
    scale = torch.tensor([width, height, width, height], dtype=boxes.dtype)
    result = Instances((int(height), int(width)))
    result.pred_boxes = Boxes(boxes[keep] * scale.to(boxes.device, non_blocking=True))
    result.scores = scores[keep]
    result.pred_classes = classes[keep]
    return detector_postprocess(result, *output_hw)
