"""Non-maximum suppression among the boxes of one group only."""

import torch


def batched_nms(boxes: torch.Tensor, scores: torch.Tensor, idxs: torch.Tensor, iou_threshold: float) -> torch.Tensor:
    """Suppress boxes that overlap a better one of the same group.

    Args:
        boxes: (N, 4) XYXY pixels; taken as float32, because half precision cannot keep the groups apart.
        scores: (N,).
        idxs: (N,) group of each box, e.g. its class.
        iou_threshold: a box goes if its IoU with a kept one is above.

    Returns:
        int64 indices of the kept boxes, best score first.
    """
    from torchvision.ops import boxes as box_ops  # here, because it takes a second and DINO needs no suppression

    assert boxes.shape[-1] == 4, f"boxes must be (N, 4), got {tuple(boxes.shape)}"
    return box_ops.batched_nms(boxes.float(), scores, idxs, iou_threshold)
