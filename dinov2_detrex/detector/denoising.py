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
from dinov2_detrex.detector.targets import Targets


@dataclass(frozen=True)
class DenoisingQueries:
    """Queries for the first part of the decoder's sequence.

    Attributes:
        contents: (B, G * 2 * n_max, D).
        boxes_logit: (B, G * 2 * n_max, 4), CXCYWH normalised, before the sigmoid.
        attn_mask: (Q, Q) over all queries, denoising ones first, True where attention is blocked.
        num_groups: G.
        group_size: 2 * n_max.
    """

    contents: Tensor
    boxes_logit: Tensor
    attn_mask: Tensor
    num_groups: int
    group_size: int

    @property
    def meta(self) -> dict[str, int]:
        """What the criterion needs to know."""
        return {"single_padding": self.group_size, "dn_num": self.num_groups}


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
    num_groups = groups_for(dn_number, targets.most)
    slots = (len(targets.counts), num_groups, 2, targets.most)  # 2: positives, negatives
    labels = noised_labels(targets.labels[:, None, None].expand(slots), label_noise_ratio, label_enc.num_embeddings)
    boxes = noised_boxes(targets.boxes[:, None, None].expand(*slots, 4), box_noise_scale)
    unused = ~targets.valid[:, None, None, :, None]
    contents = label_enc(labels).masked_fill(unused, 0.0)
    boxes_logit = inverse_sigmoid(boxes).masked_fill(unused, 0.0)
    group_size = 2 * targets.most
    attn_mask = denoising_mask(num_groups, group_size, num_queries, boxes.device)
    return DenoisingQueries(contents.flatten(1, 3), boxes_logit.flatten(1, 3), attn_mask, num_groups, group_size)


def groups_for(dn_number: int, most_objects: int) -> int:
    """As many groups as make about `dn_number` positives, at least one."""
    return max(1, dn_number // most_objects)


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


def denoising_mask(num_groups: int, group_size: int, num_queries: int, device) -> Tensor:
    """(Q, Q), True where blocked: a group sees itself and the ordinary queries, these see only each other."""
    group = torch.arange(num_groups * group_size, device=device) // group_size
    group = torch.cat((group, group.new_full((num_queries,), -1)))
    return (group[None, :] >= 0) & (group[:, None] != group[None, :])
