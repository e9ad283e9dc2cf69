"""How boxes are converted and compared: corner and centre form, IoU and generalized IoU (Rezatofighi et al. 2019).

XYXY is (x0, y0, x1, y1), CXCYWH is (centre x, centre y, width, height); every function takes any leading shape.
"""

import torch
from torch import Tensor

EPS = 1e-6  # keeps the quotients of empty boxes finite; part of the published numbers


def box_cxcywh_to_xyxy(boxes: Tensor) -> Tensor:
    """Centre form to corner form, both (..., 4), any unit."""
    centre, half = boxes[..., :2], boxes[..., 2:] / 2
    return torch.cat((centre - half, centre + half), dim=-1)


def box_xyxy_to_cxcywh(boxes: Tensor) -> Tensor:
    """Corner form to centre form, both (..., 4), any unit."""
    low, high = boxes[..., :2], boxes[..., 2:]
    return torch.cat(((low + high) / 2, high - low), dim=-1)


def box_iou(boxes1: Tensor, boxes2: Tensor) -> tuple[Tensor, Tensor]:
    """IoU and area of the union of every pair of XYXY boxes.

    Args:
        boxes1: (..., N, 4).
        boxes2: (..., M, 4).

    Returns:
        IoU (..., N, M), 0 for two empty boxes, and union area (..., N, M).
    """
    return _iou(boxes1[..., :, None, :], boxes2[..., None, :, :])


def generalized_box_iou(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """Generalized IoU of every pair of XYXY boxes, in (-1, 1].

    Args:
        boxes1: (..., N, 4).
        boxes2: (..., M, 4).

    Returns:
        (..., N, M).

    Raises:
        AssertionError: a box has x1 < x0, y1 < y0 or NaN; looking costs a wait for the device.
    """
    for side, boxes in (("first", boxes1), ("second", boxes2)):
        wrong = int((~(boxes[..., 2:] >= boxes[..., :2]).all(-1)).sum())
        if wrong:
            raise AssertionError(f"{wrong} of {boxes[..., 0].numel()} {side} boxes are NaN or have x1 < x0 or y1 < y0")
    return pairwise_giou(boxes1, boxes2)


def pairwise_giou(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """`generalized_box_iou` for boxes known to be valid: no check, no wait for the device."""
    return matched_giou(boxes1[..., :, None, :], boxes2[..., None, :, :])


def matched_iou(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """IoU of XYXY boxes paired by position, 0..1: (..., 4) and (..., 4) broadcast to (...)."""
    return _iou(boxes1, boxes2)[0]


def matched_giou(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """Generalized IoU of boxes paired by position: (..., 4) and (..., 4) broadcast to (...)."""
    iou, union = _iou(boxes1, boxes2)
    hull = _area(torch.minimum(boxes1[..., :2], boxes2[..., :2]), torch.maximum(boxes1[..., 2:], boxes2[..., 2:]))
    return iou - (hull - union) / (hull + EPS)


def _iou(boxes1: Tensor, boxes2: Tensor) -> tuple[Tensor, Tensor]:
    low, high = torch.maximum(boxes1[..., :2], boxes2[..., :2]), torch.minimum(boxes1[..., 2:], boxes2[..., 2:])
    overlap = _area(low, torch.maximum(low, high))
    union = _area(boxes1[..., :2], boxes1[..., 2:]) + _area(boxes2[..., :2], boxes2[..., 2:]) - overlap
    return overlap / (union + EPS), union


def _area(low: Tensor, high: Tensor) -> Tensor:
    width, height = (high - low).unbind(-1)
    return width * height
