"""Two answers are compared box by box, whatever their order, and what is left over is counted."""

import numpy as np
import pytest

from dinov2_detrex.export.matching import Answer, Tolerance, compare

TOLERANCE = Tolerance(shift_px=0.05, score=1e-3)
BOXES = np.array([[0, 0, 10, 10], [5, 5, 20, 20], [1, 2, 3, 4]], dtype=np.float32)


def answer(boxes=BOXES, scores=(0.9, 0.5, 0.1), labels=(0, 1, 0), order=(0, 1, 2)):
    order = list(order)
    return Answer(np.asarray(boxes)[order], np.asarray(scores)[order], np.asarray(labels)[order])


def test_the_order_does_not_count():
    found = compare([answer(order=(2, 0, 1))], [answer()], TOLERANCE)
    assert (found.num_expected, found.num_unmatched, found.largest_shift_px, found.largest_score_gap) == (3, 0, 0, 0)


def test_the_largest_shift_and_gap_of_all_pictures_are_reported():
    moved = answer(boxes=BOXES + np.array([0, 0, 0, 0.04], dtype=np.float32), scores=(0.9, 0.5005, 0.1))
    found = compare([answer(), moved], [answer(), answer()], TOLERANCE)
    assert found.num_unmatched == 0
    assert found.largest_shift_px == pytest.approx(0.04, abs=1e-5)
    assert found.largest_score_gap == pytest.approx(0.0005, abs=1e-6)


@pytest.mark.parametrize(
    "other",
    [
        answer(boxes=BOXES + np.array([[0.1], [0], [0]], dtype=np.float32)),
        answer(scores=(0.89, 0.5, 0.1)),
        answer(labels=(2, 1, 0)),
    ],
    ids=["moved", "another score", "another class"],
)
def test_a_detection_that_differs_leaves_two_without_a_partner(other):
    assert compare([other], [answer()], TOLERANCE).num_unmatched == 2


def test_a_missing_detection_is_counted_unless_it_was_just_cut_off():
    assert compare([answer(order=(1, 2))], [answer()], TOLERANCE).num_unmatched == 1
    tied = answer(scores=(0.9, 0.5, 0.4996))
    assert compare([answer(scores=(0.9, 0.5, 0.4996), order=(0, 1))], [tied], TOLERANCE).num_unmatched == 0


def test_nothing_is_like_nothing():
    nothing = answer(order=())
    assert compare([nothing], [nothing], TOLERANCE).num_unmatched == 0
    assert compare([nothing], [answer()], TOLERANCE).num_unmatched == 2  # the last one may have been cut off


def test_what_rounding_decides_excuses_one_detection_on_either_side():
    other = answer(boxes=BOXES + np.array([[0.1], [0], [0]], dtype=np.float32))
    found = compare([other], [answer()], TOLERANCE, noisy=[[answer(), other]])
    assert (found.num_unmatched, found.num_unstable) == (0, 1)
    assert compare([other], [answer()], TOLERANCE, noisy=[[answer(), answer()]]).num_unmatched == 2
