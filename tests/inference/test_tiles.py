"""Tiles cover every picture, objects on their seams are found once, and a picture that fits one is as without."""

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances

from dinov2_detrex.inference import Selection
from dinov2_detrex.inference.tiles import Tiling, merged
from dinov2_detrex.runtime.errors import UsageError

HW = (100, 180)
LEFT, RIGHT, WHOLE = (0, 0, 100, 100), (80, 0, 180, 100), (0, 0, 180, 100)


def found(*rows):
    """Instances of rows (x0, y0, x1, y1, score, class)."""
    table = torch.tensor(rows, dtype=torch.float32).reshape(-1, 6)
    return Instances((100, 100), pred_boxes=Boxes(table[:, :4]), scores=table[:, 4], pred_classes=table[:, 5].long())


def boxes_of(instances):
    return [[round(value) for value in box] for box in instances.pred_boxes.tensor.tolist()]


@pytest.mark.parametrize("image_hw", [(641, 640), (100, 3000), (1337, 991), (64, 64), (2000, 2000)])
@pytest.mark.parametrize("overlap", [0, 0.2, 0.9])
def test_tiles_cover_the_picture_and_overlap_as_asked(image_hw, overlap):
    *tiles, whole = Tiling(640, overlap).windows(image_hw)
    assert whole == (0, 0, image_hw[1], image_hw[0])
    if max(image_hw) <= 640:
        assert not tiles
        return
    seen = np.zeros(image_hw, dtype=bool)
    for x0, y0, x1, y1 in tiles:
        assert 0 <= x0 < x1 <= image_hw[1] and 0 <= y0 < y1 <= image_hw[0]
        assert (x1 - x0, y1 - y0) == (min(640, image_hw[1]), min(640, image_hw[0]))
        seen[y0:y1, x0:x1] = True
    assert seen.all()
    for axis in (0, 1):
        starts = sorted({tile[axis] for tile in tiles})
        assert all(later - earlier <= 640 * (1 - overlap) + 1 for earlier, later in zip(starts, starts[1:]))


def test_a_picture_that_fits_one_tile_has_the_boxes_it_has_without(tiny_run):
    pixels = np.random.default_rng(0).integers(0, 256, (50, 90, 3), dtype=np.uint8)
    expected = tiny_run.predictor(pixels, selection=Selection(0.0))
    assert len(expected) == 10 and tiny_run.predictor(pixels, selection=Selection(0.0), tile=90) == expected
    tiled = tiny_run.predictor(pixels, selection=Selection(0.0, top_k=15), tile=60)
    assert tiled != expected and len(tiled) <= 15 and tiled.image_hw == (50, 90)
    assert tiled.boxes_xyxy.min() >= 0 and (tiled.boxes_xyxy <= [90, 50, 90, 50]).all()


def test_an_object_seen_whole_in_two_tiles_is_found_once_with_its_better_score():
    both = merged([found((85, 10, 96, 30, 0.6, 1)), found((5, 10, 16, 30, 0.8, 1)), found()], [LEFT, RIGHT, WHOLE], HW)
    assert boxes_of(both) == [[85, 10, 96, 30]] and both.scores.tolist() == pytest.approx([0.8])


def test_an_object_cut_by_a_seam_gives_way_to_the_whole_one():
    cut, whole = found((60, 10, 100, 30, 0.9, 1)), found((0, 10, 50, 30, 0.5, 1))
    everything = found((60, 10, 130, 30, 0.6, 1))
    assert boxes_of(merged([cut, whole, everything], [LEFT, RIGHT, WHOLE], HW)) == [[60, 10, 130, 30]]


def test_neighbours_of_one_window_or_another_class_stay():
    twice = found((82, 10, 96, 30, 0.6, 1), (82, 10, 96, 30, 0.5, 1))
    other = found((2, 10, 16, 30, 0.8, 0))
    assert len(merged([twice, other, found()], [LEFT, RIGHT, WHOLE], HW)) == 3
    assert len(merged([found(), found(), found()], [LEFT, RIGHT, WHOLE], HW)) == 0


@pytest.mark.parametrize("values", [(0, 0.2), (640, 1.0), (640, -0.1), (64.5, 0.2)])
def test_tilings_that_cannot_be_are_refused(values):
    with pytest.raises(UsageError):
        Tiling(*values)
