"""How noised ground truth joins the queries in training: contrastive denoising (Zhang et al. 2022, DINO, 3.3).

The objects come in G groups. A group has a positive slot (slightly moved box, to be moved back) and a negative slot
(box moved further, to be called background) for each of the n_max objects that the fullest image of the batch has:

    group 0: positives 0..n_max-1 | negatives 0..n_max-1 | group 1: positives | negatives | ...

Slots that an image does not use have no content and the box (.5, .5, .5, .5), and are trained as background.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dinov2_detrex.detector.box_ops import box_cxcywh_to_xyxy, box_xyxy_to_cxcywh
from dinov2_detrex.detector.layers import inverse_sigmoid
from dinov2_detrex.detector.matcher import Matches, image_of_pairs
from dinov2_detrex.detector.targets import Targets


@dataclass(frozen=True, eq=False)
class LeadingQueries:
    """Queries that the decoder gets before the ones that the transformer selects.

    Attributes:
        contents: (B, N, D).
        boxes_logit: (B, N, 4), CXCYWH normalised, before the sigmoid.
        self_attn_mask: (Q, Q) over all queries, these N first, True where attention is blocked.
    """

    contents: Tensor
    boxes_logit: Tensor
    self_attn_mask: Tensor | None

    @property
    def count(self) -> int:
        """N."""
        return self.contents.shape[1]


@dataclass(frozen=True)
class DenoisingLayout:
    """Which slot of the denoising queries holds what.

    Attributes:
        num_groups: G.
        group_size: 2 * n_max.
    """

    num_groups: int
    group_size: int

    def matches(self, targets: Targets) -> Matches:
        """The pairs of queries and objects: positive k of every group answers for object k of its image."""
        device = targets.labels.device
        image = image_of_pairs(targets.counts, targets.max_objects, device).repeat(self.num_groups)
        slots = torch.cat([torch.arange(n) for n in targets.counts]).to(device, non_blocking=True)
        starts = torch.arange(self.num_groups, device=device)[:, None] * self.group_size
        return Matches(image, (starts + slots).view(1, -1), slots.repeat(self.num_groups)[None])


@dataclass(frozen=True, eq=False)
class DenoisingQueries(LeadingQueries):
    """Noised objects as queries, N = G * 2 * n_max of them.

    Attributes:
        layout: which slot holds what.
    """

    layout: DenoisingLayout


def prepare_for_cdn(
    targets: Targets,
    dn_number: int,
    label_noise_ratio: float,
    box_noise_scale: float,
    num_queries: int,
    label_enc: nn.Embedding,
) -> DenoisingQueries | None:
    """Make the denoising queries of a batch.

    Args:
        targets: the ground truth.
        dn_number: about how many positive queries an image gets; 0 for none.
        label_noise_ratio: half of it is the probability of replacing a label by a random one.
        box_noise_scale: largest move of a positive's corner in half widths (heights) of its box; 0 for no noise.
        num_queries: number of ordinary queries, which follow.
        label_enc: class -> content.

    Returns:
        the queries; None without any object in the batch, or if `dn_number` is 0.
    """
    if dn_number <= 0 or not any(targets.counts):
        return None
    num_groups = groups_for(dn_number, targets.max_objects)
    slots = (len(targets.counts), num_groups, 2, targets.max_objects)  # 2: positives, negatives
    labels = noised_labels(targets.labels[:, None, None].expand(slots), label_noise_ratio, label_enc.num_embeddings)
    boxes = noised_boxes(targets.boxes[:, None, None].expand(*slots, 4), box_noise_scale)
    unused = ~targets.valid[:, None, None, :, None]
    contents = label_enc(labels).masked_fill(unused, 0.0)
    boxes_logit = inverse_sigmoid(boxes).masked_fill(unused, 0.0)
    layout = DenoisingLayout(num_groups, group_size=2 * targets.max_objects)
    self_attn_mask = denoising_mask(layout, num_queries, boxes.device)
    return DenoisingQueries(contents.flatten(1, 3), boxes_logit.flatten(1, 3), self_attn_mask, layout)


def groups_for(dn_number: int, max_objects: int) -> int:
    """As many groups as make about `dn_number` positives, at least one."""
    return max(1, dn_number // max_objects)


def noised_labels(labels: Tensor, ratio: float, num_classes: int) -> Tensor:
    """Each label with probability ratio / 2 replaced by a uniformly drawn one, which may be the same."""
    replace = torch.rand(labels.shape, device=labels.device) < ratio / 2
    return torch.where(replace, torch.randint_like(labels, num_classes), labels)


def noised_boxes(boxes: Tensor, scale: float) -> Tensor:
    """Move each corner coordinate by up to `scale` half widths (heights), those of negatives by one more.

    Args:
        boxes: (B, G, 2, n_max, 4), CXCYWH normalised; positives at 0 of dimension 2, negatives at 1.
        scale: 0 leaves the boxes as they are.

    Returns:
        boxes of the same shape, corners clamped to the image; a negative's corners may have crossed.
    """
    if scale <= 0:
        return boxes
    half = torch.cat((boxes[..., 2:], boxes[..., 2:]), dim=-1) / 2  # w h w h
    sign = torch.randint_like(boxes, 2) * 2 - 1
    amount = torch.rand(boxes.shape, device=boxes.device)
    amount = torch.stack((amount[:, :, 0], amount[:, :, 1] + 1), dim=2)
    corners = box_cxcywh_to_xyxy(boxes) + sign * amount * half * scale
    return box_xyxy_to_cxcywh(corners.clamp(0, 1))


def denoising_mask(layout: DenoisingLayout, num_queries: int, device: torch.device) -> Tensor:
    """(Q, Q), True where blocked: a group sees itself and the ordinary queries, these see only each other."""
    group = torch.arange(layout.num_groups * layout.group_size, device=device) // layout.group_size
    group = torch.cat((group, group.new_full((num_queries,), -1)))
    return (group[None, :] >= 0) & (group[:, None] != group[None, :])
