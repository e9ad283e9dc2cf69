"""How training looks: an image with its ground truth, and beside it the same with what the detector finds."""

from typing import Any

import torch
from detectron2.structures import Instances
from torch import Tensor
from torchvision.utils import draw_bounding_boxes

LEAST_SCORE = 0.3  # what is drawn of the predictions


def training_image(record: dict[str, Any], found: Instances, input_format: str) -> Tensor:
    """Ground truth at the left, predictions at the right.

    Args:
        record: a training record: `image` (3, H, W) with pixels 0..255, and `instances`.
        found: the detections in it, an `Instances`.
        input_format: "RGB" or "BGR", the order of the image's channels.

    Returns:
        (3, H, 2 W), uint8, RGB.
    """
    image = record["image"].cpu().clamp(0, 255).to(torch.uint8)
    image = image.flip(0) if input_format == "BGR" else image
    truth, found = record["instances"].to("cpu"), found[found.scores >= LEAST_SCORE].to("cpu")
    left = draw(image, truth.gt_boxes.tensor, [str(int(c)) for c in truth.gt_classes])
    scored = [f"{int(c)} {s:.2f}" for c, s in zip(found.pred_classes, found.scores.tolist())]
    return torch.cat((left, draw(image, found.pred_boxes.tensor, scored)), dim=2)


def draw(image: Tensor, boxes: Tensor, labels: list[str]) -> Tensor:
    """(3, H, W) uint8 with XYXY boxes (n, 4) in pixels, labelled."""
    return draw_bounding_boxes(image, boxes, labels, colors="red") if len(boxes) else image
