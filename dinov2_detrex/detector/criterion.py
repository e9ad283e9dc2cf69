"""What the predictions cost: classification, L1 and generalized-IoU losses of all layers, computed together.

The L predictions (decoder layers, encoder proposals) have one shape, so they are matched and their losses computed as
one stack; so are the denoising parts of the decoder layers. Focal loss: Lin et al. 2017. Set loss: Carion et al. 2020.
"""

import re
import warnings
from collections.abc import Mapping

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from dinov2_detrex.detector.box_ops import box_cxcywh_to_xyxy, matched_giou
from dinov2_detrex.detector.matcher import Matches, image_of_pairs
from dinov2_detrex.detector.targets import Targets, pad_targets

LOSS_KEYS = {"class": ("loss_class",), "boxes": ("loss_bbox", "loss_giou")}


class DINOCriterion(nn.Module):
    """Losses of the DINO detector.

    All sums are divided by the number of objects in the batch, averaged over the processes of a distributed run: so the
    mean of the processes' gradients is the gradient of the joint batch. (Exactly so for the matching losses. The number
    of denoising groups, and of background slots in them, follows from the fullest image of a process's own share.
    "ce_loss" is a weighted mean over a process's queries.)

    Args:
        num_classes: K.
        matcher: a `HungarianMatcher`, or any module that matches one prediction like its `forward`.
        weight_dict: loss name -> weight, applied by the detector (`weighted`).
        losses: any of "class", "boxes".
        eos_coef: weight of the background in "ce_loss", 0.1 if None.
        loss_class_type: "focal_loss" (sigmoid, K logits) or "ce_loss" (softmax, K + 1 logits, background last).
        alpha, gamma: of the focal loss.
        two_stage_binary_cls: encoder proposals only tell objects from background (class 0).

    Raises:
        AssertionError: unknown losses or loss type.
    """

    def __init__(
        self,
        num_classes,
        matcher,
        weight_dict,
        losses=("class", "boxes"),
        eos_coef=None,
        loss_class_type="focal_loss",
        alpha=0.25,
        gamma=2.0,
        two_stage_binary_cls=False,
    ):
        super().__init__()
        unknown = set(losses) - set(LOSS_KEYS)
        if unknown:
            raise AssertionError(f"unknown losses {sorted(unknown)}; there are {sorted(LOSS_KEYS)}")
        if loss_class_type not in ("focal_loss", "ce_loss"):
            raise AssertionError(f"loss_class_type is 'focal_loss' or 'ce_loss', not {loss_class_type!r}")
        self.num_classes = num_classes
        self.matcher = matcher
        self.weight_dict = {key: float(weight) for key, weight in weight_dict.items()}
        self.losses = list(losses)
        self.eos_coef = 0.1 if eos_coef is None else eos_coef
        self.loss_class_type = loss_class_type
        self.alpha = alpha
        self.gamma = gamma
        self.two_stage_binary_cls = two_stage_binary_cls
        if loss_class_type == "ce_loss":
            self.register_buffer("empty_weight", torch.tensor([1.0] * num_classes + [self.eos_coef]))

    def forward(self, outputs: dict, targets: list[dict], dn_metas: dict | None = None) -> dict[str, Tensor]:
        """Unweighted losses.

        Args:
            outputs: `pred_logits` (B, Q, K) and `pred_boxes` (B, Q, 4), CXCYWH normalised, of the last layer;
                `aux_outputs`, a list of the same for the earlier layers; `enc_outputs`, the same for the encoder.
            targets: per image `labels` (n,) and `boxes` (n, 4), CXCYWH normalised.
            dn_metas: `single_padding` (2 n_max), `dn_num` (groups) and `output_known_lbs_bboxes` (outputs of the
                denoising queries, as above); None without such queries.

        Returns:
            scalars, float32: `loss_class`, `loss_bbox`, `loss_giou` of the last layer, the same ending in `_{i}` of
            layer i, `_enc` of the encoder, and `_dn`, `_dn_{i}` of the denoising queries (0 without them).

        Raises:
            NonFinitePredictions: a ValueError.
        """
        targets = pad_targets(targets)
        num_boxes = average_count(sum(targets.counts), targets.labels.device)
        layers = decoder_layers(outputs)
        losses = self.matching_losses(layers, outputs.get("enc_outputs"), targets, num_boxes)
        losses.update(self.denoising_losses(len(layers), targets, num_boxes, dn_metas))
        return losses

    def matching_losses(self, layers: list[dict], encoder: dict | None, targets: Targets, num_boxes) -> dict:
        """Losses of the decoder layers and the encoder's proposals, each matched for itself."""
        predictions = layers if encoder is None else [*layers, encoder]
        names = layer_names(len(layers)) + ([] if encoder is None else ["_enc"])
        logits, boxes = stack_predictions(predictions)
        labels = targets.labels.expand(len(predictions), -1, -1)
        if encoder is not None and self.two_stage_binary_cls:
            labels = torch.cat((labels[:-1], torch.zeros_like(labels[-1:])))
        matches = self.match(logits, boxes, targets, labels)
        return self.layer_losses(logits, boxes, matches, targets, labels, num_boxes, names)

    def match(self, logits: Tensor, boxes: Tensor, targets: Targets, labels: Tensor) -> Matches:
        """Match all predictions at once where the matcher can, else one after the other."""
        logits, boxes = logits.detach(), boxes.detach()
        if hasattr(self.matcher, "match_layers"):
            return self.matcher.match_layers(logits, boxes, targets, labels)
        pairs = []
        for i in range(len(logits)):
            parts = [{"labels": labels[i, b, :n], "boxes": targets.boxes[b, :n]} for b, n in enumerate(targets.counts)]
            matched = self.matcher({"pred_logits": logits[i], "pred_boxes": boxes[i]}, parts)
            pairs.append(torch.cat([torch.stack(pair) for pair in matched], dim=1))
        query, target = torch.stack(pairs).to(logits.device).unbind(1)
        return Matches(image_of_pairs(targets.counts, logits.shape[2], logits.device), query, target)

    def denoising_losses(self, num_layers: int, targets: Targets, num_boxes, dn_metas: dict | None) -> dict:
        """Losses of the denoising queries: every positive answers for its own object, all else is background."""
        names = [f"_dn{name}" for name in layer_names(num_layers)]
        outputs = (dn_metas or {}).get("output_known_lbs_bboxes")
        if outputs is None:
            zero = targets.boxes.new_zeros(())
            return {key + name: zero for name in names for loss in self.losses for key in LOSS_KEYS[loss]}
        logits, boxes = stack_predictions(decoder_layers(outputs))
        matches = own_objects(targets, dn_metas["dn_num"], dn_metas["single_padding"])
        labels = targets.labels.expand(num_layers, -1, -1)
        return self.layer_losses(logits, boxes, matches, targets, labels, num_boxes * dn_metas["dn_num"], names)

    def layer_losses(self, logits, boxes, matches: Matches, targets: Targets, labels, num_boxes, names) -> dict:
        """Losses of L predictions as scalars named `loss_*{name}`.

        Args:
            logits, boxes: (L, B, Q, K) and (L, B, Q, 4).
            matches: of P pairs.
            targets: the objects; `labels` (L, B, n_max) are their classes in each prediction.
            num_boxes: what sums are divided by.
            names: of the L predictions.
        """
        layer = torch.arange(len(logits), device=logits.device)[:, None]
        values = {}
        if "class" in self.losses:
            matched_labels = labels[layer, matches.image, matches.target]
            values["loss_class"] = self.class_loss(logits.float(), layer, matches, matched_labels, num_boxes)
        if "boxes" in self.losses:
            predicted = boxes.float()[layer, matches.image, matches.query]
            wanted = targets.boxes[matches.image, matches.target].expand_as(predicted)
            giou = matched_giou(box_cxcywh_to_xyxy(predicted), box_cxcywh_to_xyxy(wanted))
            values["loss_bbox"] = (predicted - wanted).abs().sum((-1, -2)) / num_boxes
            values["loss_giou"] = (1 - giou).sum(-1) / num_boxes
        by_key = {key: value.unbind() for key, value in values.items()}
        return {key + name: by_key[key][i] for i, name in enumerate(names) for key in by_key}

    def class_loss(self, logits: Tensor, layer: Tensor, matches: Matches, labels: Tensor, num_boxes) -> Tensor:
        """(L,): classification loss of each prediction; labels (L, P) of the matched queries."""
        if self.loss_class_type == "ce_loss":
            classes = torch.full(logits.shape[:3], self.num_classes, dtype=torch.int64, device=logits.device)
            classes[layer, matches.image, matches.query] = labels
            loss = [F.cross_entropy(x.flatten(0, 1), y.flatten(), self.empty_weight) for x, y in zip(logits, classes)]
            return torch.stack(loss)
        as_background = focal_background(logits, self.alpha, self.gamma).sum((1, 2, 3))
        matched = logits[layer, matches.image, matches.query, labels]
        as_object = focal_background(-matched, 1 - self.alpha, self.gamma)
        change = as_object - focal_background(matched, self.alpha, self.gamma)
        return (as_background + change.sum(-1)) / num_boxes


def focal_background(logits: Tensor, alpha: float, gamma: float) -> Tensor:
    """Focal loss of logits that should be background: (1 - alpha) p^gamma (-log(1 - p)).

    By symmetry the loss of an object's logit x is `focal_background(-x, 1 - alpha, gamma)`.
    """
    return (1 - alpha) * logits.sigmoid() ** gamma * F.softplus(logits)


def decoder_layers(outputs: dict) -> list[dict]:
    """The outputs of every decoder layer, first to last."""
    return [*outputs.get("aux_outputs", ()), outputs]


def layer_names(num_layers: int) -> list[str]:
    """How the losses of the layers end: "_0", "_1", ..., and nothing for the last."""
    return [f"_{i}" for i in range(num_layers - 1)] + [""]


def stack_predictions(predictions: list[dict]) -> tuple[Tensor, Tensor]:
    """Logits (L, B, Q, K) and boxes (L, B, Q, 4) of L predictions."""
    return torch.stack([p["pred_logits"] for p in predictions]), torch.stack([p["pred_boxes"] for p in predictions])


def own_objects(targets: Targets, num_groups: int, group_size: int) -> Matches:
    """The pairs of the denoising queries: positive k of every group and object k of its image."""
    device = targets.labels.device
    image = image_of_pairs(targets.counts, targets.most, device).repeat(num_groups)
    slots = torch.cat([torch.arange(n) for n in targets.counts]).to(device, non_blocking=True)
    starts = torch.arange(num_groups, device=device)[:, None] * group_size
    return Matches(image, (starts + slots).view(1, -1), slots.repeat(num_groups)[None])


def average_count(count: int, device) -> float | Tensor:
    """Objects per process, at least one in all processes together; on the device in a distributed run."""
    if not (dist.is_available() and dist.is_initialized()):
        return float(max(count, 1))
    total = torch.tensor([float(count)]).to(device, non_blocking=True)
    dist.all_reduce(total)
    return total.clamp(min=1.0) / dist.get_world_size()


def weighted(losses: Mapping[str, Tensor], weight_dict: Mapping[str, float]) -> dict[str, Tensor]:
    """Multiply every loss with its weight."""
    return {name: loss * loss_weight(name, weight_dict) for name, loss in losses.items()}


def loss_weight(name: str, weight_dict: Mapping[str, float]) -> float:
    """The weight of a loss, or of the one it repeats: `loss_class_dn_7` falls back on `loss_class_dn`, `loss_class`.

    Without any of them it is 1, with a warning.
    """
    base = re.sub(r"_\d+$", "", name)
    for key in (name, base, re.sub(r"_(dn|enc)$", "", base)):
        if key in weight_dict:
            return weight_dict[key]
    warnings.warn(f"{name} has no weight in weight_dict and is added with weight 1", stacklevel=2)
    return 1.0
