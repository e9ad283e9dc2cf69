"""What a training image should yield: its objects' classes and boxes, checked, and padded to one tensor per batch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypedDict, overload

import torch
from torch import Tensor

from dinov2_detrex.detector.box_ops import box_xyxy_to_cxcywh
from dinov2_detrex.runtime.errors import UserError


class Target(TypedDict):
    """The n objects of one image, in detrex's form: `labels` (n,), int64; `boxes` (n, 4), CXCYWH normalised to it."""

    labels: Tensor
    boxes: Tensor


@dataclass(frozen=True, eq=False)
class Targets(Sequence[Target]):
    """The objects of B images, n_max slots each; as a sequence, detrex's form: a `Target` for every image.

    Attributes:
        labels: (B, n_max), int64, 0 in unused slots.
        boxes: (B, n_max, 4), CXCYWH normalised to the image, 0 in unused slots.
        valid: (B, n_max), bool, True for the first `counts[b]` slots of image b.
        counts: objects of every image, known to the host.
    """

    labels: Tensor
    boxes: Tensor
    valid: Tensor
    counts: tuple[int, ...]

    @property
    def max_objects(self) -> int:
        """n_max: most objects in one image."""
        return self.labels.shape[1]

    def __len__(self) -> int:
        return len(self.counts)

    @overload
    def __getitem__(self, index: int) -> Target: ...
    @overload
    def __getitem__(self, index: slice) -> list[Target]: ...
    def __getitem__(self, index: int | slice) -> Target | list[Target]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        count = self.counts[index]
        return {"labels": self.labels[index, :count], "boxes": self.boxes[index, :count]}


def targets_of(batched_inputs: list[dict[str, Any]], num_classes: int, device: torch.device) -> Targets:
    """Classes and boxes of every record's `instances`.

    Args:
        batched_inputs: training records, each with `instances` that have `gt_classes` and `gt_boxes` (XYXY, pixels).
        num_classes: what labels must be below.
        device: where the targets go; the host does not wait for it.

    Raises:
        UserError: a record has no `instances`.
        ValueError: a label is outside of 0 .. num_classes - 1, or a box is not finite.
    """
    return pad_targets([_target_of(record, num_classes, device) for record in batched_inputs])


def _target_of(record: dict[str, Any], num_classes: int, device: torch.device) -> Target:
    name = record.get("file_name", "a training record")
    if "instances" not in record:
        raise UserError(
            f"{name} has no instances to train on: its record needs an `annotations` key (an empty list where "
            "the image shows no object), and the mapper is_train=true"
        )
    instances = record["instances"]
    labels, boxes_xyxy = instances.gt_classes, instances.gt_boxes.tensor
    if labels.device.type == "cpu":  # looking at a GPU's tensors would make the host wait
        _check(labels, boxes_xyxy, num_classes, name)
    height, width = instances.image_size
    scale = torch.tensor([width, height, width, height], dtype=torch.float32)
    boxes = box_xyxy_to_cxcywh(boxes_xyxy) / scale.to(boxes_xyxy.device, non_blocking=True)
    return {"labels": labels.to(device, non_blocking=True).long(), "boxes": boxes.to(device, non_blocking=True)}


def _check(labels: Tensor, boxes: Tensor, num_classes: int, name: str) -> None:
    wrong = labels[(labels < 0) | (labels >= num_classes)]
    if len(wrong):
        raise ValueError(
            f"label {int(wrong[0])} of {name} is outside of 0..{num_classes - 1} (num_classes={num_classes})"
        )
    if not torch.isfinite(boxes).all():
        raise ValueError(f"a box of {name} is not finite: {boxes[~torch.isfinite(boxes).all(-1)][0].tolist()}")


def pad_targets(targets: Sequence[Target]) -> Targets:
    """The batch as one tensor each; every image gets as many slots as the one with most objects has.

    `Targets` are padded already and come back as they are.
    """
    if isinstance(targets, Targets):
        return targets
    labels = torch.nn.utils.rnn.pad_sequence([t["labels"] for t in targets], batch_first=True)
    boxes = torch.nn.utils.rnn.pad_sequence([t["boxes"] for t in targets], batch_first=True)
    counts = tuple(len(t["labels"]) for t in targets)
    count = torch.tensor(counts).to(labels.device, non_blocking=True)
    valid = torch.arange(labels.shape[1], device=labels.device) < count[:, None]
    return Targets(labels, boxes, valid, counts)
