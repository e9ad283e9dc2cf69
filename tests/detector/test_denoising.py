"""Contrastive denoising: how many groups, what stands in which slot, who sees whom."""

import pytest
import torch
from torch import nn

from dinov2_detrex.detector.denoising import prepare_for_cdn
from dinov2_detrex.detector.targets import pad_targets

NUM_CLASSES = 7


def targets_with(*counts: int):
    generator = torch.Generator().manual_seed(0)
    return pad_targets(
        [
            {
                "labels": torch.randint(NUM_CLASSES, (n,), generator=generator),
                "boxes": torch.rand(n, 4, generator=generator) * 0.3 + 0.2,
            }
            for n in counts
        ]
    )


def queries_for(targets, dn_number=100, label_noise=0.0, box_noise=0.0, num_queries=4):
    torch.manual_seed(0)
    label_enc = nn.Embedding(NUM_CLASSES, 3)
    return prepare_for_cdn(targets, dn_number, label_noise, box_noise, num_queries, label_enc), label_enc


@pytest.mark.parametrize("counts, groups, total", [((3, 1), 33, 198), ((7,), 14, 196), ((150, 3), 1, 300)])
def test_groups_share_out_the_asked_number(counts, groups, total):
    queries, _ = queries_for(targets_with(*counts))
    assert (queries.layout.num_groups, queries.contents.shape[1], queries.boxes_logit.shape[1]) == (
        groups,
        total,
        total,
    )
    assert queries.layout.group_size == 2 * max(counts)


@pytest.mark.parametrize("counts, dn_number", [((0, 0), 100), ((2, 1), 0)])
def test_without_objects_or_when_turned_off_there_are_no_queries(counts, dn_number):
    assert queries_for(targets_with(*counts), dn_number)[0] is None


def test_without_noise_every_slot_holds_its_own_object_and_unused_slots_nothing():
    targets = targets_with(3, 0, 1)
    queries, label_enc = queries_for(targets, dn_number=7)
    boxes = queries.boxes_logit.sigmoid()
    for image, count in enumerate(targets.counts):
        for slot in range(2 * 2 * 3):  # 2 groups of 3 positives and 3 negatives
            k = slot % 3
            content, box = queries.contents[image, slot], boxes[image, slot]
            if k < count:
                torch.testing.assert_close(content, label_enc.weight[targets.labels[image, k]])
                torch.testing.assert_close(box, targets.boxes[image, k])
            else:
                assert not content.any()
                assert box.tolist() == [0.5] * 4


def test_positives_move_less_than_half_a_side_and_negatives_more():
    targets = targets_with(50)
    targets.boxes[..., :2] += 0.15  # 0.35..0.65
    targets.boxes[..., 2:] *= 0.3  # 0.06..0.15: no corner leaves the image
    queries, _ = queries_for(targets, dn_number=2000, box_noise=1.0)
    boxes = queries.boxes_logit.sigmoid().view(40, 2, 50, 4)
    wanted = targets.boxes[0]
    low, high = wanted[:, :2] - wanted[:, 2:] / 2, wanted[:, :2] + wanted[:, 2:] / 2
    positive_low = boxes[:, 0, :, :2] - boxes[:, 0, :, 2:] / 2
    positive_high = boxes[:, 0, :, :2] + boxes[:, 0, :, 2:] / 2
    half = wanted[:, 2:] / 2
    for moved in ((positive_low - low).abs() / half, (positive_high - high).abs() / half):
        assert float(moved.max()) <= 1.0 + 1e-4
        assert 0.45 < float(moved.mean()) < 0.55  # uniform in 0..1
    centre_move = (boxes[:, 1, :, :2] - wanted[:, :2]).abs() / half  # each of two corners moved by 1..2 halves
    together, apart = centre_move > 1 - 1e-4, centre_move < 0.5 + 1e-4
    assert float(centre_move.max()) <= 2 + 1e-4
    assert bool((together | apart).all())
    assert 0.45 < float(together.float().mean()) < 0.55


def test_half_of_the_label_noise_ratio_draws_a_new_label():
    targets = targets_with(50)
    queries, label_enc = queries_for(targets, dn_number=5000, label_noise=0.5)
    true = label_enc(targets.labels).expand(200, 50, 3)
    kept = (queries.contents.view(200, 50, 3) == true).all(-1).float().mean()
    assert float(kept) == pytest.approx(1 - 0.25 * (NUM_CLASSES - 1) / NUM_CLASSES, abs=0.02)


def test_a_group_sees_itself_and_the_ordinary_queries_which_see_only_each_other():
    queries, _ = queries_for(targets_with(2, 1), dn_number=4, num_queries=3)
    size, total = 4, 8
    blocked = queries.self_attn_mask
    assert blocked.shape == (total + 3, total + 3)
    for i in range(total + 3):
        for j in range(total + 3):
            of_i, of_j = ("ordinary" if q >= total else q // size for q in (i, j))
            assert bool(blocked[i, j]) == (of_j != "ordinary" and of_i != of_j)
