"""Which query answers for which object: the assignment of least total cost (Carion et al. 2020, DETR, 3.1).

L predictions of one batch (decoder layers and encoder proposals) are matched at once: one cost tensor, one transfer to
the host.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from dinov2_detrex.detector.box_ops import box_cxcywh_to_xyxy, pairwise_giou
from dinov2_detrex.detector.outputs import Prediction
from dinov2_detrex.detector.targets import Target, Targets, pad_targets
from dinov2_detrex.runtime.values import require_number, require_share

CLASS_COSTS = ("focal_loss_cost", "ce_cost", "modulated_focal_cost")

MAX_COSTS = 2**24  # computed at once, in float32 64 MiB, and about ten times as much on the way


class NonFinitePredictions(FloatingPointError, ValueError, AssertionError):
    """The detector's outputs contain NaN or infinity: training diverged, or the weights are broken.

    It is all the kinds of error that the same cause raises elsewhere: in a trainer, in scipy and in `Boxes.clip`.
    """


@dataclass(frozen=True)
class Matches:
    """The P matched pairs of each of L predictions; P is the same for all.

    Attributes:
        image: (P,), index in the batch.
        query: (L, P) or (1, P).
        target: (L, P) or (1, P), slot of the object in its image.
    """

    image: Tensor
    query: Tensor
    target: Tensor


class HungarianMatcher(nn.Module):
    """Optimal one-to-one matching of queries and objects.

    Args:
        cost_class, cost_bbox, cost_giou: weights of the classification, L1 and generalized-IoU costs, at least 0.
        cost_class_type: "focal_loss_cost" (sigmoid) or "ce_cost" (softmax); or "modulated_focal_cost", the focal cost
            of p sqrt((GIoU + 1) / 2), which prefers queries whose class and box are good at once (Liu et al. 2023,
            Stable-DINO, section 3.3).
        alpha, gamma: of the focal costs; 0..1, and at least 0.

    Raises:
        UsageError: a number is out of its range.
        AssertionError: all weights are 0, or the type is unknown.
    """

    def __init__(
        self,
        cost_class: float = 1,
        cost_bbox: float = 1,
        cost_giou: float = 1,
        cost_class_type: str = "focal_loss_cost",
        alpha: float = 0.25,
        gamma: float = 2.0,
    ):
        super().__init__()
        require_number(self, 0, cost_class=cost_class, cost_bbox=cost_bbox, cost_giou=cost_giou, gamma=gamma)
        require_share(self, alpha=alpha)
        if not (cost_class or cost_bbox or cost_giou):
            raise AssertionError("all matching costs have weight 0")
        if cost_class_type not in CLASS_COSTS:
            raise AssertionError(f"cost_class_type is one of {', '.join(CLASS_COSTS)}, not {cost_class_type!r}")
        self.cost_class = cost_class
        self.cost_bbox = cost_bbox
        self.cost_giou = cost_giou
        self.cost_class_type = cost_class_type
        self.alpha = alpha
        self.gamma = gamma

    def forward(self, outputs: Prediction, targets: Sequence[Target]) -> list[tuple[Tensor, Tensor]]:
        """Match one prediction.

        Args:
            outputs: `pred_logits` (B, Q, K) and `pred_boxes` (B, Q, 4), CXCYWH normalised.
            targets: per image `labels` (n,) and `boxes` (n, 4).

        Returns:
            per image (query indices, target indices), int64 on the CPU, min(Q, n) each, queries ascending.

        Raises:
            NonFinitePredictions: a ValueError.
            IndexError: a label is not below K.
        """
        logits, padded = outputs["pred_logits"], pad_targets(targets)
        if any(padded.counts) and int(padded.labels.max()) >= logits.shape[-1]:
            raise IndexError(f"label {int(padded.labels.max())} is not below num_classes={logits.shape[-1]}")
        pairs = self._assign(self.cost_by_parts(logits[None], outputs["pred_boxes"][None], padded), padded.counts)[0]
        return [(torch.from_numpy(query), torch.from_numpy(target)) for query, target in pairs]

    def match_layers(self, logits: Tensor, boxes: Tensor, targets: Targets, labels: Tensor | None = None) -> Matches:
        """Match L predictions of one batch.

        Args:
            logits: (L, B, Q, K).
            boxes: (L, B, Q, 4), CXCYWH normalised.
            targets: the batch's objects.
            labels: (L, B, n_max), where they differ from `targets.labels`.

        Raises:
            NonFinitePredictions: a cost is not finite.
        """
        pairs = self._assign(self.cost_by_parts(logits, boxes, targets, labels), targets.counts)
        index = torch.from_numpy(np.stack([np.concatenate(layer, axis=1) for layer in pairs]))  # L 2 P
        query, target = index.to(logits.device, non_blocking=True).unbind(1)
        return Matches(image_of_pairs(targets.counts, logits.shape[2], logits.device), query, target)

    def cost_by_parts(self, logits: Tensor, boxes: Tensor, targets: Targets, labels: Tensor | None = None) -> Tensor:
        """`cost`, on the host where it has more than `MAX_COSTS` entries.

        Then a part of the queries is done at a time: many objects in an image do not fill the device.
        """
        num_queries = max(1, MAX_COSTS // max(targets.labels.numel() * len(logits), 1))  # at once
        if num_queries >= logits.shape[2]:
            return self.cost(logits, boxes, targets, labels)
        parts = zip(logits.split(num_queries, dim=2), boxes.split(num_queries, dim=2))
        return torch.cat([self.cost(*part, targets, labels).cpu() for part in parts], dim=2)

    @torch.no_grad()
    def cost(self, logits: Tensor, boxes: Tensor, targets: Targets, labels: Tensor | None = None) -> Tensor:
        """(L, B, Q, n_max), float32: cost of each query for each object slot."""
        labels = (targets.labels if labels is None else labels).expand(len(logits), -1, -1)
        boxes, target_boxes = boxes.float(), targets.boxes[None]
        giou = pairwise_giou(box_cxcywh_to_xyxy(boxes), box_cxcywh_to_xyxy(target_boxes))
        cost = self.cost_class * self._class_cost(logits.float(), labels, giou)
        cost += self.cost_bbox * (boxes[..., :, None, :] - target_boxes[..., None, :, :]).abs().sum(-1)
        cost -= self.cost_giou * giou
        return cost

    def _class_cost(self, logits: Tensor, labels: Tensor, giou: Tensor) -> Tensor:
        """(L, B, Q, K) logits at (L, B, n) labels, with (L, B, Q, n) generalized IoU -> (L, B, Q, n)."""
        at_labels = labels[:, :, None, :].expand(-1, -1, logits.shape[2], -1)
        if self.cost_class_type == "ce_cost":
            return -F.softmax(logits, dim=-1).gather(-1, at_labels)
        p = logits.gather(-1, at_labels).sigmoid()
        if self.cost_class_type == "modulated_focal_cost":
            p = p * ((giou + 1) / 2).clamp(min=0).sqrt()
        positive = self.alpha * (1 - p) ** self.gamma * -(p + 1e-8).log()
        negative = (1 - self.alpha) * p**self.gamma * -(1 - p + 1e-8).log()
        return positive - negative

    @staticmethod
    def _assign(cost: Tensor, counts: tuple[int, ...]) -> list[list[tuple[np.ndarray, np.ndarray]]]:
        """(query, target) index arrays, for each of L predictions and B images; here the host waits for the device."""
        on_host = cost.cpu().numpy()
        if not np.isfinite(on_host).all():
            raise NonFinitePredictions("the predictions to be matched contain NaN or infinite values")
        return [[linear_sum_assignment(image[:, :n]) for image, n in zip(layer, counts)] for layer in on_host]


def image_of_pairs(counts: tuple[int, ...], limit: int, device: torch.device) -> Tensor:
    """(P,): 0 as often as image 0 has objects (but at most `limit` times), then 1 for image 1, and so on."""
    image = [index for index, count in enumerate(counts) for _ in range(min(count, limit))]
    return torch.tensor(image, dtype=torch.int64).to(device, non_blocking=True)


def match_predictions(matcher: nn.Module, logits: Tensor, boxes: Tensor, targets: Targets, labels: Tensor) -> Matches:
    """Match L predictions of one batch: a `HungarianMatcher` all at once, any other module one after the other.

    Args:
        matcher: called for a prediction like `HungarianMatcher.forward`.
        logits, boxes: (L, B, Q, K) and (L, B, Q, 4).
        targets: the batch's objects.
        labels: (L, B, n_max), their classes in each prediction.
    """
    if isinstance(matcher, HungarianMatcher):
        return matcher.match_layers(logits, boxes, targets, labels)
    pairs = []
    for layer_logits, layer_boxes, layer_labels in zip(logits, boxes, labels):
        matched = matcher(
            {"pred_logits": layer_logits, "pred_boxes": layer_boxes}, replace(targets, labels=layer_labels)
        )
        pairs.append(torch.cat([torch.stack(pair) for pair in matched], dim=1))
    query, target = torch.stack(pairs).to(logits.device).unbind(1)
    return Matches(image_of_pairs(targets.counts, logits.shape[2], logits.device), query, target)
