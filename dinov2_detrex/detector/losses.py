"""What a prediction costs: the losses by name, each for L predictions of one batch at once.

A loss is a function of the matched predictions and an entry in `LOSSES`; how much it counts is the criterion's
`weight_dict`. Focal loss: Lin et al. 2017. Set loss: Carion et al. 2020.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from dinov2_detrex.detector.box_ops import box_cxcywh_to_xyxy, matched_giou, matched_iou
from dinov2_detrex.detector.matcher import Matches
from dinov2_detrex.detector.quality import RULES, QualityRule


@dataclass(frozen=True, eq=False)
class MatchedPredictions:
    """L predictions of a batch, and the objects that P of their queries answer for; all other queries are background.

    Attributes:
        logits: (L, B, Q, K), at least float32, or (L, B, Q, K + 1) with the background last for "ce_loss".
        boxes: (L, B, Q, 4), at least float32, CXCYWH normalised.
        labels: (L, B, n_max), the objects' classes as each prediction should say them.
        target_boxes: (B, n_max, 4), CXCYWH normalised.
        matches: the P pairs of each prediction.
        num_boxes: what sums are divided by.
    """

    logits: Tensor
    boxes: Tensor
    labels: Tensor
    target_boxes: Tensor
    matches: Matches
    num_boxes: float | Tensor

    @cached_property
    def query_index(self) -> tuple[Tensor, Tensor, Tensor]:
        """What picks the matched queries, (L, P), from the first three dimensions of logits and boxes."""
        return self._layer, self.matches.image, self.matches.query

    @cached_property
    def _layer(self) -> Tensor:
        return torch.arange(len(self.logits), device=self.logits.device)[:, None]

    @cached_property
    def matched_labels(self) -> Tensor:
        """(L, P): the classes that the matched queries should say."""
        return self.labels[self._layer, self.matches.image, self.matches.target]

    @cached_property
    def matched_boxes(self) -> tuple[Tensor, Tensor]:
        """(L, P, 4) each, CXCYWH normalised: the boxes of the matched queries, and those of their objects."""
        predicted = self.boxes[self.query_index]
        return predicted, self.target_boxes[self.matches.image, self.matches.target].expand_as(predicted)

    @property
    def matched_ious(self) -> Tensor:
        """(L, P), without gradient: the overlap of the matched queries' boxes with their objects'."""
        predicted, wanted = (box_cxcywh_to_xyxy(boxes.detach()) for boxes in self.matched_boxes)
        return matched_iou(predicted, wanted)


@dataclass(frozen=True, eq=False)
class LossOptions:
    """What the losses may be told, as the criterion was.

    Attributes:
        loss_class_type: "focal_loss" or one of `quality.RULES` (sigmoid), or "ce_loss" (softmax, background last).
        alpha, gamma: of the focal loss or the quality rule.
        class_weight: (K + 1,), of each class in "ce_loss"; else None.
    """

    loss_class_type: str
    alpha: float
    gamma: float
    class_weight: Tensor | None


CLASS_LOSSES = ("focal_loss", "ce_loss", *RULES)
Loss = Callable[[MatchedPredictions, LossOptions], Tensor]  # gives (L,): one value for each prediction


def class_loss(found: MatchedPredictions, options: LossOptions) -> Tensor:
    """(L,): how wrong the classes are, in the form that `loss_class_type` names."""
    if options.loss_class_type == "ce_loss":
        return cross_entropy(found, options.class_weight)
    if options.loss_class_type in RULES:
        return quality_loss(found, RULES[options.loss_class_type], options.alpha, options.gamma)
    return focal_loss(found, options.alpha, options.gamma)


def cross_entropy(found: MatchedPredictions, class_weight: Tensor | None) -> Tensor:
    """(L,): mean over all queries, weighted by the class that each should say; unmatched ones the last."""
    background = found.logits.shape[-1] - 1
    shape, device = found.logits.shape[:3], found.logits.device
    classes = torch.full(shape, background, dtype=torch.int64, device=device)
    classes[found.query_index] = found.matched_labels
    loss = [F.cross_entropy(x.flatten(0, 1), y.flatten(), class_weight) for x, y in zip(found.logits, classes)]
    return torch.stack(loss)


def focal_loss(found: MatchedPredictions, alpha: float, gamma: float) -> Tensor:
    """(L,): all logits as background, then the change for those of the matched queries at their labels."""
    as_background = focal_background(found.logits, alpha, gamma).sum((1, 2, 3))
    matched = found.logits[(*found.query_index, found.matched_labels)]
    as_object = focal_background(-matched, 1 - alpha, gamma)
    change = as_object - focal_background(matched, alpha, gamma)
    return (as_background + change.sum(-1)) / found.num_boxes


def quality_loss(found: MatchedPredictions, rule: QualityRule, alpha: float, gamma: float) -> Tensor:
    """(L,): all logits as background, then the change for the matched queries, whose targets follow their boxes."""
    background_alpha = rule.background_alpha(alpha)
    as_background = focal_background(found.logits, background_alpha, gamma).sum((1, 2, 3))
    matched = found.logits[(*found.query_index, found.matched_labels)]
    quality = (matched.detach().sigmoid(), found.matched_ious, alpha, gamma)
    as_object = F.binary_cross_entropy_with_logits(matched, rule.target(*quality), reduction="none")
    change = rule.weight(*quality) * as_object - focal_background(matched, background_alpha, gamma)
    return (as_background + change.sum(-1)) / found.num_boxes


def focal_background(logits: Tensor, alpha: float, gamma: float) -> Tensor:
    """Focal loss of logits that should be background: (1 - alpha) p^gamma (-log(1 - p)).

    By symmetry the loss of an object's logit x is `focal_background(-x, 1 - alpha, gamma)`.
    """
    return (1 - alpha) * logits.sigmoid() ** gamma * F.softplus(logits)


def box_l1_loss(found: MatchedPredictions, options: LossOptions) -> Tensor:
    """(L,): distance of the matched boxes from their objects', summed over the coordinates."""
    predicted, wanted = found.matched_boxes
    return (predicted - wanted).abs().sum((-1, -2)) / found.num_boxes


def box_giou_loss(found: MatchedPredictions, options: LossOptions) -> Tensor:
    """(L,): one minus the generalized IoU of the matched boxes and their objects'."""
    predicted, wanted = (box_cxcywh_to_xyxy(boxes) for boxes in found.matched_boxes)
    return (1 - matched_giou(predicted, wanted)).sum(-1) / found.num_boxes


LOSSES: Mapping[str, Mapping[str, Loss]] = {  # what `DINOCriterion(losses=...)` names -> losses by name
    "class": {"loss_class": class_loss},
    "boxes": {"loss_bbox": box_l1_loss, "loss_giou": box_giou_loss},
}
