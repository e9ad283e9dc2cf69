"""Which predictions are trained, and how their losses are called: all layers matched and computed together.

The L predictions (decoder layers, encoder proposals) have one shape, so they are matched and their losses computed as
one stack; so are the denoising parts of the decoder layers. The losses themselves are in `losses`.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

from dinov2_detrex.detector.denoising import DenoisingLayout
from dinov2_detrex.detector.layers import at_least_float32
from dinov2_detrex.detector.loss_names import Place, decoder_places
from dinov2_detrex.detector.losses import CLASS_LOSSES, LOSSES, Loss, LossOptions, MatchedPredictions
from dinov2_detrex.detector.matcher import Matches, match_predictions
from dinov2_detrex.detector.outputs import DenoisingMeta, OneToManyMeta, Outputs, Prediction, decoder_layers
from dinov2_detrex.detector.quality import RULES
from dinov2_detrex.detector.targets import Target, Targets, pad_targets
from dinov2_detrex.runtime.values import require_flag, require_number, require_share, require_whole


@dataclass(frozen=True, eq=False)
class Predictions:
    """L predictions of one shape.

    Attributes:
        places: where each is made.
        logits: (L, B, Q, K).
        boxes: (L, B, Q, 4), CXCYWH normalised.
    """

    places: Sequence[Place]
    logits: Tensor
    boxes: Tensor

    @classmethod
    def stack(cls, places: Sequence[Place], predictions: Iterable[Prediction]) -> "Predictions":
        predictions = list(predictions)
        logits = torch.stack([prediction["pred_logits"] for prediction in predictions])
        return cls(places, logits, torch.stack([prediction["pred_boxes"] for prediction in predictions]))


Losses = dict[tuple[str, Place], Tensor]  # (name, where) -> scalar


class DINOCriterion(nn.Module):
    """Losses of the DINO detector.

    All sums are divided by the number of objects in the batch, averaged over the processes of a distributed run: so the
    mean of the processes' gradients is the gradient of the joint batch. (Exactly so for the matching losses. The number
    of denoising groups, and of background slots in them, follows from the fullest image of a process's own share.
    "ce_loss" is a weighted mean over a process's queries.)

    Args:
        num_classes: K.
        matcher: a `HungarianMatcher`, or any module that matches one prediction like its `forward`.
        weight_dict: loss name -> weight of at least 0, applied by the detector (`spelled_out`, `weighted`).
        losses: any of `LOSSES`.
        eos_coef: weight of the background in "ce_loss", 0.1 if None.
        loss_class_type: "focal_loss" (sigmoid, K logits) or "ce_loss" (softmax, K + 1 logits, background last); or a
            sigmoid loss whose target for a matched query follows its box: "ia_bce_loss" (p^alpha IoU^(1 - alpha)),
            "mal_loss" (IoU^gamma) or "varifocal_loss" (IoU), see `quality`.
        alpha, gamma: of the class loss; 0..1, and at least 0. DETRs use 0.25 and 2; DEIM has gamma 1.5 with "mal_loss".
        two_stage_binary_cls: encoder proposals only tell objects from background (class 0).

    Raises:
        AssertionError: unknown losses or loss type.
        ValueError: a matcher of softmax costs with a loss type that follows the boxes.
        UsageError: a number is out of its range.
    """

    empty_weight: Tensor
    takes_one_to_many = True  # `forward` knows groups of training queries

    def __init__(
        self,
        num_classes: int,
        matcher: nn.Module,
        weight_dict: Mapping[str, float],
        losses: Sequence[str] = ("class", "boxes"),
        eos_coef: float | None = None,
        loss_class_type: str = "focal_loss",
        alpha: float = 0.25,
        gamma: float = 2.0,
        two_stage_binary_cls: bool = False,
    ):
        super().__init__()
        unknown = set(losses) - set(LOSSES)
        if unknown:
            raise AssertionError(f"unknown losses {sorted(unknown)}; there are {sorted(LOSSES)}")
        if loss_class_type not in CLASS_LOSSES:
            raise AssertionError(f"loss_class_type is one of {', '.join(CLASS_LOSSES)}, not {loss_class_type!r}")
        if loss_class_type in RULES and getattr(matcher, "cost_class_type", None) == "ce_cost":
            raise ValueError(
                f"loss_class_type={loss_class_type!r} is of sigmoid scores, the matcher's 'ce_cost' is not"
            )
        require_whole(self, 1, num_classes=num_classes)
        require_number(self, 0, gamma=gamma, **weight_dict)
        require_share(self, alpha=alpha)
        require_flag(self, two_stage_binary_cls=two_stage_binary_cls)
        self.num_classes = num_classes
        self.matcher = matcher
        self.weight_dict = {key: float(weight) for key, weight in weight_dict.items()}
        self.losses = list(losses)
        self.eos_coef = 0.1 if eos_coef is None else eos_coef
        require_number(self, 0, eos_coef=self.eos_coef)
        self.loss_class_type = loss_class_type
        self.alpha = alpha
        self.gamma = gamma
        self.two_stage_binary_cls = two_stage_binary_cls
        if loss_class_type == "ce_loss":
            self.register_buffer("empty_weight", torch.tensor([1.0] * num_classes + [self.eos_coef]))

    def forward(
        self,
        outputs: Outputs,
        targets: Sequence[Target],
        dn_metas: DenoisingMeta | None = None,
        one_to_many: OneToManyMeta | None = None,
    ) -> dict[str, Tensor]:
        """Unweighted losses; takes and gives detrex's forms.

        Args:
            outputs: of the ordinary queries.
            targets: the objects of every image; `Targets` are used as they are, a list is padded first.
            dn_metas: the denoising queries and their outputs; None without such queries.
            one_to_many: the groups of training queries and their outputs; None without such groups.

        Returns:
            scalars: `loss_class`, `loss_bbox`, `loss_giou` of the last layer, the same ending in `_{i}` of
            layer i, `_enc` of the encoder, `_dn`, `_dn_{i}` of the denoising queries (0 without them), and with groups
            `_o2m`, `_o2m_{i}`, means over the groups.

        Raises:
            NonFinitePredictions: a ValueError.
        """
        objects = pad_targets(targets)
        num_boxes = average_count(sum(objects.counts), objects.labels.device)
        layers = decoder_layers(outputs)
        losses = self.matching_losses(layers, outputs.get("enc_outputs"), objects, num_boxes)
        if dn_metas is None:
            losses |= self.zero_losses(decoder_places("dn", len(layers)), objects.boxes)
        else:
            layout = DenoisingLayout(dn_metas["dn_num"], dn_metas["single_padding"])
            denoised = decoder_layers(dn_metas["output_known_lbs_bboxes"])
            losses |= self.denoising_losses(denoised, layout, objects, num_boxes)
        if one_to_many is not None:
            groups = decoder_layers(one_to_many["outputs"])
            losses |= self.one_to_many_losses(groups, one_to_many["num_groups"], objects, num_boxes)
        return {place.named(loss): value for (loss, place), value in losses.items()}

    @property
    def functions(self) -> dict[str, Loss]:
        """The chosen losses by name."""
        return {name: loss for kind in LOSSES if kind in self.losses for name, loss in LOSSES[kind].items()}

    def matching_losses(
        self, layers: list[Prediction], encoder: Prediction | None, targets: Targets, num_boxes: float | Tensor
    ) -> Losses:
        """Losses of the decoder layers and the encoder's proposals, each matched for itself."""
        places, stacked = decoder_places("", len(layers)), layers
        if encoder is not None:
            places, stacked = [*places, Place("enc")], [*layers, encoder]
        predictions = Predictions.stack(places, stacked)
        labels = targets.labels.expand(len(places), -1, -1)
        if encoder is not None and self.two_stage_binary_cls:
            labels = torch.cat((labels[:-1], torch.zeros_like(labels[-1:])))
        logits, boxes = predictions.logits.detach(), predictions.boxes.detach()
        matches = match_predictions(self.matcher, logits, boxes, targets, labels)
        return self.losses_of(predictions, matches, labels, targets, num_boxes)

    def denoising_losses(
        self, layers: list[Prediction], layout: DenoisingLayout, targets: Targets, num_boxes: float | Tensor
    ) -> Losses:
        """Losses of the denoising queries: every positive answers for its own object, all else is background."""
        predictions = Predictions.stack(decoder_places("dn", len(layers)), layers)
        labels = targets.labels.expand(len(layers), -1, -1)
        return self.losses_of(predictions, layout.matches(targets), labels, targets, num_boxes * layout.num_groups)

    def one_to_many_losses(
        self, layers: list[Prediction], num_groups: int, targets: Targets, num_boxes: float | Tensor
    ) -> Losses:
        """Losses of the groups of training queries: each is matched for itself, so an object is found by each."""
        places = decoder_places("o2m", len(layers))
        stacked = Predictions.stack(places, layers)
        logits, boxes = (
            x.unflatten(2, (num_groups, -1)).movedim(2, 1).flatten(0, 1)  # L B GQ C -> LG B Q C
            for x in (stacked.logits, stacked.boxes)
        )
        labels = targets.labels.expand(len(logits), -1, -1)
        matches = match_predictions(self.matcher, logits.detach(), boxes.detach(), targets, labels)
        values = self.values_of(logits, boxes, matches, labels, targets, num_boxes)
        means = {name: value.unflatten(0, (len(places), num_groups)).mean(1) for name, value in values.items()}
        return {(name, place): means[name][i] for i, place in enumerate(places) for name in means}

    def zero_losses(self, places: Sequence[Place], like: Tensor) -> Losses:
        """Zeros in place of the losses of predictions that there are not."""
        zero = like.new_zeros(())
        return {(name, place): zero for place in places for name in self.functions}

    def losses_of(
        self,
        predictions: Predictions,
        matches: Matches,
        labels: Tensor,
        targets: Targets,
        num_boxes: float | Tensor,
    ) -> Losses:
        """The chosen losses of L predictions.

        Args:
            predictions: what is trained.
            matches: P pairs of queries and objects for each.
            labels: (L, B, n_max), the objects' classes in each prediction.
            targets: the objects.
            num_boxes: what sums are divided by.
        """
        values = self.values_of(predictions.logits, predictions.boxes, matches, labels, targets, num_boxes)
        return {(name, place): values[name][i] for i, place in enumerate(predictions.places) for name in values}

    def values_of(
        self,
        logits: Tensor,
        boxes: Tensor,
        matches: Matches,
        labels: Tensor,
        targets: Targets,
        num_boxes: float | Tensor,
    ) -> dict[str, Tensor]:
        """name -> (L,): the chosen losses of logits (L, B, Q, K) and boxes (L, B, Q, 4), as `losses_of` takes them."""
        logits, boxes = at_least_float32(logits), at_least_float32(boxes)
        found = MatchedPredictions(logits, boxes, labels, targets.boxes, matches, num_boxes)
        class_weight = self.empty_weight.to(logits.dtype) if self.loss_class_type == "ce_loss" else None
        options = LossOptions(self.loss_class_type, self.alpha, self.gamma, class_weight)
        return {name: loss(found, options) for name, loss in self.functions.items()}


def average_count(count: int, device: torch.device) -> float | Tensor:
    """Objects per process, at least one in all processes together; on the device in a distributed run."""
    if not (dist.is_available() and dist.is_initialized()):
        return float(max(count, 1))
    total = torch.tensor([float(count)]).to(device, non_blocking=True)
    dist.all_reduce(total)
    return total.clamp(min=1.0) / dist.get_world_size()
