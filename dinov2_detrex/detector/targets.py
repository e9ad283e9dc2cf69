"""What a training image should yield: its objects' classes and boxes, checked, and padded to one tensor per batch."""

from dataclasses import dataclass

import torch
from torch import Tensor

from dinov2_detrex.detector.box_ops import box_xyxy_to_cxcywh


@dataclass(frozen=True)
class Targets:
    """The objects of B images, n_max slots each.

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
    def most(self) -> int:
        """n_max: most objects in one image."""
        return self.labels.shape[1]


def targets_of(batched_inputs: list[dict], num_classes: int, device) -> list[dict[str, Tensor]]:
    """Classes and boxes of every record's `instances`, as `{"labels" (n,), "boxes" (n, 4) CXCYWH normalised}`.

    Raises:
        KeyError: a record has no `instances`.
        ValueError: a label is outside of 0 .. num_classes - 1, or a box is not finite.
    """
    return [_target_of(record, num_classes, device) for record in batched_inputs]


def _target_of(record: dict, num_classes: int, device) -> dict[str, Tensor]:
    name = record.get("file_name", "a training record")
    if "instances" not in record:
        raise KeyError(f"instances (of {name}: training needs records made from ones with an `annotations` key)")
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


def pad_targets(targets: list[dict[str, Tensor]]) -> Targets:
    """The batch as one tensor each; every image gets as many slots as the one with most objects has."""
    labels = torch.nn.utils.rnn.pad_sequence([t["labels"] for t in targets], batch_first=True)
    boxes = torch.nn.utils.rnn.pad_sequence([t["boxes"] for t in targets], batch_first=True)
    counts = tuple(len(t["labels"]) for t in targets)
    count = torch.tensor(counts).to(labels.device, non_blocking=True)
    valid = torch.arange(labels.shape[1], device=labels.device) < count[:, None]
    return Targets(labels, boxes, valid, counts)
