"""The matcher finds the assignment of least cost."""

import itertools
import math

import pytest
import torch

from dinov2_detrex.detector import HungarianMatcher, matcher
from dinov2_detrex.detector.targets import pad_targets


def random_case(num_layers=3, counts=(2, 0, 3), num_queries=5, num_classes=4):
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(num_layers, len(counts), num_queries, num_classes, generator=generator)
    boxes = torch.rand(num_layers, len(counts), num_queries, 4, generator=generator) * 0.5 + 0.2
    targets = [
        {
            "labels": torch.randint(num_classes, (n,), generator=generator),
            "boxes": torch.rand(n, 4, generator=generator) * 0.5 + 0.2,
        }
        for n in counts
    ]
    return logits, boxes, targets


def plain_cost(logit: list[float], box, label: int, target, kind: str) -> float:
    """Cost of one pair, in Python floats; weights 2, 5, 2."""
    corners = [(b[0] - b[2] / 2, b[1] - b[3] / 2, b[0] + b[2] / 2, b[1] + b[3] / 2) for b in (box, target)]
    (ax0, ay0, ax1, ay1), (bx0, by0, bx1, by1) = corners
    overlap = max(0.0, min(ax1, bx1) - max(ax0, bx0)) * max(0.0, min(ay1, by1) - max(ay0, by0))
    union = (ax1 - ax0) * (ay1 - ay0) + (bx1 - bx0) * (by1 - by0) - overlap
    hull = (max(ax1, bx1) - min(ax0, bx0)) * (max(ay1, by1) - min(ay0, by0))
    giou = overlap / union - (hull - union) / hull
    if kind == "ce_cost":
        class_cost = -math.exp(logit[label]) / sum(math.exp(x) for x in logit)
    else:
        p = 1 / (1 + math.exp(-logit[label]))
        p = p * math.sqrt((giou + 1) / 2) if kind == "modulated_focal_cost" else p
        class_cost = 0.25 * (1 - p) ** 2 * -math.log(p + 1e-8) - 0.75 * p**2 * -math.log(1 - p + 1e-8)
    return 2 * class_cost + 5 * sum(abs(x - y) for x, y in zip(box, target)) - 2 * giou


def least_cost_pairs(logits, boxes, target, kind):
    """By trying every assignment."""
    cost = [
        [plain_cost(q.tolist(), b.tolist(), int(label), t.tolist(), kind) for label, t in zip(*target.values())]
        for q, b in zip(logits, boxes)
    ]
    count = len(target["labels"])
    best = min(
        itertools.permutations(range(len(cost)), count), key=lambda qs: sum(cost[q][t] for t, q in enumerate(qs))
    )
    return sorted((q, t) for t, q in enumerate(best))


@pytest.mark.parametrize("kind", ["focal_loss_cost", "ce_cost", "modulated_focal_cost"])
def test_every_layer_gets_the_least_cost_of_all_assignments(kind):
    logits, boxes, targets = random_case()
    matcher = HungarianMatcher(2, 5, 2, cost_class_type=kind)
    matches = matcher.match_layers(logits, boxes, pad_targets(targets))
    for layer in range(len(logits)):
        alone = matcher({"pred_logits": logits[layer], "pred_boxes": boxes[layer]}, targets)
        for image, target in enumerate(targets):
            wanted = least_cost_pairs(logits[layer, image], boxes[layer, image], target, kind)
            here = matches.image == image
            assert list(zip(matches.query[layer, here].tolist(), matches.target[layer, here].tolist())) == wanted
            assert list(zip(*(index.tolist() for index in alone[image]))) == wanted


def test_more_objects_than_queries_match_every_query():
    logits, boxes, targets = random_case(counts=(7, 1), num_queries=3)
    matches = HungarianMatcher().match_layers(logits, boxes, pad_targets(targets))
    assert matches.image.tolist() == [0, 0, 0, 1]
    assert matches.query[0, :3].tolist() == [0, 1, 2]
    assert len(set(matches.target[0, :3].tolist())) == 3


def test_many_objects_are_matched_a_part_of_the_queries_at_a_time_with_the_same_costs(monkeypatch):
    logits, boxes, targets = random_case(counts=(7, 3), num_queries=11)
    targets, sizes = pad_targets(targets), []
    whole = HungarianMatcher().cost_by_parts(logits, boxes, targets)

    class Watched(HungarianMatcher):
        def cost(self, *arguments):
            sizes.append(super().cost(*arguments).numel())
            return super().cost(*arguments)

    monkeypatch.setattr(matcher, "MAX_COSTS", 100)
    torch.testing.assert_close(Watched().cost_by_parts(logits, boxes, targets), whole, rtol=0, atol=3e-6)
    assert len(sizes) > 1 and max(sizes) <= 100 and sum(sizes) == whole.numel()


def test_no_objects_match_nothing():
    logits, boxes, targets = random_case(counts=(0, 0))
    matches = HungarianMatcher().match_layers(logits, boxes, pad_targets(targets))
    assert matches.query.shape == matches.target.shape == (3, 0)
    pairs = HungarianMatcher()({"pred_logits": logits[0], "pred_boxes": boxes[0]}, targets)
    assert [(q.tolist(), t.tolist(), q.dtype) for q, t in pairs] == [([], [], torch.int64)] * 2


def test_nan_predictions_and_unknown_labels_are_named():
    logits, boxes, targets = random_case()
    with pytest.raises(IndexError, match="num_classes=2"):
        HungarianMatcher()({"pred_logits": logits[0, ..., :2], "pred_boxes": boxes[0]}, targets)
    logits[1, 0, 0] = math.nan
    with pytest.raises(ValueError, match="NaN"):
        HungarianMatcher().match_layers(logits, boxes, pad_targets(targets))


def test_a_matcher_without_any_cost_or_of_unknown_kind_is_refused():
    with pytest.raises(AssertionError, match="weight 0"):
        HungarianMatcher(0, 0, 0)
    with pytest.raises(AssertionError, match="dice"):
        HungarianMatcher(cost_class_type="dice")
