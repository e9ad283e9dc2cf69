"""How alike are two answers to one picture? Their boxes are matched one to one, and the pairs compared."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

FAR = 1e3  # tolerances; what is farther away is no worse, so that one lost detection moves no other pair


@dataclass(frozen=True)
class Answer:
    """Detections in a picture: boxes (n, 4) XYXY in pixels, scores (n,), labels (n,)."""

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True)
class Tolerance:
    """What counts as the same detection: a shift in pixels and a difference of scores at most."""

    shift_px: float
    score: float


@dataclass(frozen=True)
class Comparison:
    """Of all pictures together.

    Attributes:
        num_expected: detections that were expected.
        num_unmatched: of these, and of those found, the ones without a partner within the tolerance.
        num_unstable: of those expected, the ones that rounding decides: they are not among the detector's own answers
            to the same pixels with noise of the size of rounding. They are not counted as unmatched.
        largest_shift_px, largest_score_gap: of the pairs, in pixels of the picture and as scores.
    """

    num_expected: int
    num_unmatched: int
    num_unstable: int
    largest_shift_px: float
    largest_score_gap: float


def compare(
    found: Sequence[Answer],
    expected: Sequence[Answer],
    tolerance: Tolerance,
    noisy: Sequence[Sequence[Answer]] | None = None,
) -> Comparison:
    """Compare picture by picture.

    A detection whose score is within the tolerance of the lowest one that was kept may be kept by one side and not by
    the other; without a partner it does not count as unmatched.

    Args:
        found, expected: answers to the same pictures.
        tolerance: what counts as the same detection.
        noisy: further answers of the detector to each picture, with noise of the size of rounding.
    """
    shifts, gaps, num_unmatched, num_unstable = [0.0], [0.0], 0, 0
    for i, (ours, theirs) in enumerate(zip(found, expected, strict=True)):
        unstable = unstable_detections(theirs, noisy[i] if noisy else (), tolerance)
        pairs = matched(ours, theirs, tolerance)
        shifts, gaps = [*shifts, *pairs.shift_px], [*gaps, *pairs.score_gap]
        num_unmatched += pairs.unmatched(unstable)
        num_unstable += int(unstable.sum())
    return Comparison(sum(len(a.scores) for a in expected), num_unmatched, num_unstable, max(shifts), max(gaps))


@dataclass(frozen=True)
class Pairs:
    """How the detections of one picture were paired.

    Attributes:
        shift_px, score_gap: of every pair.
        found_alone, expected_alone: True for those without a partner, unless they may just have been cut off.
    """

    shift_px: np.ndarray
    score_gap: np.ndarray
    found_alone: np.ndarray
    expected_alone: np.ndarray

    def unmatched(self, unstable: np.ndarray) -> int:
        """Detections without a partner that rounding does not excuse; each unstable one excuses one on either side."""
        excused = int(unstable.sum())
        return int((self.expected_alone & ~unstable).sum()) + max(0, int(self.found_alone.sum()) - excused)


def matched(found: Answer, expected: Answer, tolerance: Tolerance) -> Pairs:
    """Pair the detections of one picture so that the differences are least in all."""
    shift = np.abs(found.boxes[:, None] - expected.boxes[None]).max(-1, initial=0.0)
    gap = np.abs(found.scores[:, None] - expected.scores[None])
    cost = shift / tolerance.shift_px + gap / tolerance.score
    cost = np.minimum(cost, FAR) + FAR * (found.labels[:, None] != expected.labels[None])
    rows, columns = linear_sum_assignment(cost)
    good = (shift[rows, columns] <= tolerance.shift_px) & (gap[rows, columns] <= tolerance.score)
    good &= found.labels[rows] == expected.labels[columns]
    rows, columns = rows[good], columns[good]
    cut_off = min((answer.scores.min() for answer in (found, expected) if len(answer.scores)), default=0.0)
    alone = [answer.scores > cut_off + tolerance.score for answer in (found, expected)]
    alone[0][rows], alone[1][columns] = False, False
    return Pairs(shift[rows, columns], gap[rows, columns], *alone)


def unstable_detections(expected: Answer, noisy: Sequence[Answer], tolerance: Tolerance) -> np.ndarray:
    """(n,), True for detections that are missing from one of the other answers."""
    unstable = np.zeros(len(expected.scores), dtype=bool)
    for answer in noisy:
        unstable |= matched(answer, expected, tolerance).expected_alone
    return unstable
