"""What does computing the losses of all layers together save? The criterion against a plain loop over the layers."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torchvision import ops

from dinov2_detrex.analysis.benchmark.timing import as_table, best_times, largest_difference, peak_column
from dinov2_detrex.detector import DINOCriterion, HungarianMatcher
from dinov2_detrex.detector.box_ops import EPS, box_cxcywh_to_xyxy

COST_WEIGHTS: dict[str, Any] = {"cost_class": 2.0, "cost_bbox": 5.0, "cost_giou": 2.0}
LOOP = "loop over the layers"
FOCAL: dict[str, Any] = {"alpha": 0.25, "gamma": 2.0}


@dataclass(frozen=True)
class Case:
    """What the criterion is given: the encoder's proposals too, and `num_groups` groups of denoising queries."""

    num_layers: int = 6
    num_queries: int = 900
    boxes_per_image: tuple[int, ...] = (23, 17)
    num_classes: int = 80
    num_groups: int = 4

    @property
    def group_size(self) -> int:
        return 2 * max(self.boxes_per_image)

    def __str__(self) -> str:
        queries = f"{self.num_queries} queries and {self.num_groups} x {self.group_size} for denoising"
        boxes = " and ".join(map(str, self.boxes_per_image))
        return f"{self.num_layers} decoder layers, {queries}, {self.num_classes} classes, images with {boxes} boxes"


def report(device: torch.device, repeats: int, case: Case | None = None) -> str:
    """The table of `loss_rows`."""
    case = case or Case()
    return f"{case}\n\n{as_table(loss_rows(case, repeats, device))}"


def loss_rows(case: Case, repeats: int, device: torch.device) -> list[dict]:
    """A row for the loop and one for the batched pass: forward, forward and backward, largest difference."""
    leaves, targets, num_queries = random_case(case, device)
    criterion = DINOCriterion(case.num_classes, HungarianMatcher(**COST_WEIGHTS, **FOCAL), {}, **FOCAL)
    computed = {
        LOOP: lambda: loop_losses(*as_outputs(leaves, num_queries), targets, case),
        "all layers at once": lambda: criterion(*as_criterion_takes(leaves, num_queries, targets, case)),
    }
    both = {name: lambda run=run: with_gradients(run(), leaves) for name, run in computed.items()}
    with torch.no_grad():
        forward_s = best_times(computed, repeats, device)
    both_s = best_times(both, repeats, device)
    expected = both[LOOP]()
    rows = []
    for name in computed:
        row = {
            "losses": name,
            "forward, ms": 1000 * forward_s[name],
            "forward : loop": forward_s[name] / forward_s[LOOP],
        }
        row |= {"forward + backward, ms": 1000 * both_s[name], "both : loop": both_s[name] / both_s[LOOP]}
        row["largest difference"] = max(largest_difference(x, y) for x, y in zip(both[name](), expected))
        rows.append(row | peak_column(both[name], device))
    return rows


def with_gradients(losses: dict[str, Tensor], leaves: list[Tensor]) -> tuple[Tensor, ...]:
    """All losses by name as one tensor, and the gradients of their sum."""
    values = torch.stack([losses[name] for name in sorted(losses)])
    return (values, *torch.autograd.grad(values.sum(), leaves))


def random_case(case: Case, device: torch.device) -> tuple[list[Tensor], list[dict], int]:
    """Predictions with gradients, targets, and how many of the queries are for denoising; always the same.

    The predictions alternate: logits (B, N + Q, K) and boxes (B, N + Q, 4) of each decoder layer, then of the encoder.
    """
    generator = torch.Generator().manual_seed(0)
    num_images, denoising = len(case.boxes_per_image), case.num_groups * case.group_size

    def boxes(*shape):  # inside the image
        size = torch.rand(*shape, 2, generator=generator) * 0.4 + 0.02
        return torch.cat((size / 2 + torch.rand(*shape, 2, generator=generator) * (1 - size), size), dim=-1)

    leaves = []
    for count in [denoising + case.num_queries] * case.num_layers + [case.num_queries]:
        logits = torch.randn(num_images, count, case.num_classes, generator=generator) - 4
        leaves += [x.to(device).requires_grad_() for x in (logits, boxes(num_images, count))]
    targets = []
    for n in case.boxes_per_image:
        labels = torch.randint(case.num_classes, (n,), generator=generator)
        targets.append({"labels": labels.to(device), "boxes": boxes(n).to(device)})
    return leaves, targets, denoising


def as_outputs(leaves: list[Tensor], denoising: int) -> tuple[list[dict], list[dict], dict]:
    """Outputs of the ordinary queries of every decoder layer, of the denoising ones, and of the encoder."""
    pairs = list(zip(leaves[::2], leaves[1::2]))
    ordinary = [{"pred_logits": x[:, denoising:], "pred_boxes": y[:, denoising:]} for x, y in pairs[:-1]]
    noised = [{"pred_logits": x[:, :denoising], "pred_boxes": y[:, :denoising]} for x, y in pairs[:-1]]
    return ordinary, noised, {"pred_logits": pairs[-1][0], "pred_boxes": pairs[-1][1]}


def as_criterion_takes(leaves: list[Tensor], denoising: int, targets: list[dict], case: Case) -> tuple:
    """The arguments of `DINOCriterion`."""
    ordinary, noised, encoder = as_outputs(leaves, denoising)
    outputs = {**ordinary[-1], "aux_outputs": ordinary[:-1], "enc_outputs": encoder}
    noised = {**noised[-1], "aux_outputs": noised[:-1]}
    meta = {"dn_num": case.num_groups, "single_padding": case.group_size, "output_known_lbs_bboxes": noised}
    return outputs, targets, meta


# ---- the plain loop


def loop_losses(ordinary: list[dict], noised: list[dict], encoder: dict, targets: list[dict], case: Case) -> dict:
    """The losses as DETR-type detectors usually compute them: one prediction after the other, image by image."""
    num_boxes, losses = float(sum(case.boxes_per_image)), {}
    names = [f"_{i}" for i in range(case.num_layers - 1)] + [""]
    for name, output in [*zip(names, ordinary), ("_enc", encoder)]:
        losses |= plain_losses(output, targets, plain_matches(output, targets), num_boxes, name)
    pairs = denoising_pairs(case, encoder["pred_boxes"].device)
    for name, output in zip(names, noised):
        losses |= plain_losses(output, targets, pairs, num_boxes * case.num_groups, f"_dn{name}")
    return losses


@torch.no_grad()
def plain_matches(output: dict, targets: list[dict]) -> list[tuple[Tensor, Tensor]]:
    """(queries, objects) of each image: costs of all queries of the batch for all its objects, then the assignment."""
    p, boxes = output["pred_logits"].flatten(0, 1).sigmoid(), output["pred_boxes"].flatten(0, 1)
    labels, wanted = (torch.cat([t[key] for t in targets]) for key in ("labels", "boxes"))
    alpha, gamma = FOCAL["alpha"], FOCAL["gamma"]
    negative = (1 - alpha) * p**gamma * -(1 - p + 1e-8).log()
    positive = alpha * (1 - p) ** gamma * -(p + 1e-8).log()
    cost = COST_WEIGHTS["cost_class"] * (positive - negative)[:, labels]
    cost += COST_WEIGHTS["cost_bbox"] * torch.cdist(boxes, wanted, p=1)
    giou = ops.generalized_box_iou(box_cxcywh_to_xyxy(boxes), box_cxcywh_to_xyxy(wanted))
    cost -= COST_WEIGHTS["cost_giou"] * giou
    counts = [len(t["labels"]) for t in targets]
    cost = cost.view(len(targets), -1, len(labels)).cpu().split(counts, dim=-1)
    pairs = [linear_sum_assignment(image_cost[i]) for i, image_cost in enumerate(cost)]
    on_device = [[torch.from_numpy(index).to(labels.device) for index in pair] for pair in pairs]
    return [(queries, objects) for queries, objects in on_device]


def denoising_pairs(case: Case, device: torch.device) -> list[tuple[Tensor, Tensor]]:
    """(queries, objects) of each image: object k and positive k of every group."""
    pairs = []
    for n in case.boxes_per_image:
        slots = torch.arange(n, device=device)
        query = torch.cat([group * case.group_size + slots for group in range(case.num_groups)])
        pairs.append((query, slots.repeat(case.num_groups)))
    return pairs


def plain_losses(output: dict, targets: list[dict], pairs: list[tuple[Tensor, Tensor]], normaliser, name: str) -> dict:
    """Focal, L1 and generalized-IoU losses of one prediction, with torchvision's functions."""
    logits, onehot = output["pred_logits"], torch.zeros_like(output["pred_logits"])
    predicted, wanted = [], []
    for image, (query, target) in enumerate(pairs):
        onehot[image, query, targets[image]["labels"][target]] = 1
        predicted.append(output["pred_boxes"][image, query])
        wanted.append(targets[image]["boxes"][target])
    predicted, wanted = torch.cat(predicted), torch.cat(wanted)
    corners = box_cxcywh_to_xyxy(predicted), box_cxcywh_to_xyxy(wanted)
    values = {
        "loss_class": ops.sigmoid_focal_loss(logits, onehot, **FOCAL, reduction="sum"),
        "loss_bbox": F.l1_loss(predicted, wanted, reduction="sum"),
        "loss_giou": ops.generalized_box_iou_loss(*corners, reduction="sum", eps=EPS),
    }
    return {key + name: value / normaliser for key, value in values.items()}
