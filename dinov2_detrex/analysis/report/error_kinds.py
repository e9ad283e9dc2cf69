"""What kind of error costs how much AP? TIDE's kinds (Bolya et al. 2020, section 2) at IoU 0.5, background below 0.1.

A wrong detection is, by the first of these that holds: "box" (its own class, IoU 0.1 to 0.5), "class" (another class,
at least 0.5), "duplicate" (its own class, at least 0.5: another one found that object), "background" (below 0.1 with
all objects), "both" (another class, 0.1 to 0.5). An object is "missed" where no detection found it, nor is a box or
class error at it. What a kind costs is how much AP50 rises once its errors alone are put right: of boxes and classes
the best detection at an object not yet found becomes right and the others go; duplicates, backgrounds and boths go;
missed objects are no longer asked for.
"""

from dataclasses import dataclass

import numpy as np

from dinov2_detrex.analysis.report.judged import FOUND_IOU, Judged

BACKGROUND_IOU = 0.1
KINDS = ("class", "box", "both", "duplicate", "background", "missed")
RECALLS = np.linspace(0, 1, 101)


@dataclass(frozen=True)
class Errors:
    """The errors of `judged`.

    Attributes:
        kind: (N,) the kind of each detection, "" for right ones and those within crowds.
        target: (N,) the object that a box or class error is at, else -1.
        missed: (M,) True for objects that nothing is at.
        ap50: with all errors, percent; NaN without objects.
        cost: {kind: by how much AP50 rises without it, percent}.
    """

    kind: np.ndarray
    target: np.ndarray
    missed: np.ndarray
    ap50: float
    cost: dict[str, float]

    def counts(self) -> dict[str, int]:
        """{kind: errors}, of detections with any score."""
        found = {kind: int((self.kind == kind).sum()) for kind in KINDS}
        return found | {"missed": int(self.missed.sum())}


def find_errors(judged: Judged) -> Errors:
    """Sort the errors, and see what each kind costs."""
    kind = _kinds(judged)
    target = np.select([kind == "box", kind == "class"], [judged.own, judged.other], -1)
    missed = ~judged.objects.crowd
    missed[judged.match[judged.found]] = False
    missed[target[target >= 0]] = False
    base = _ap50(judged, judged.detections.kind, judged.found, ~judged.ignored, judged.num_objects)
    cost = {one: _ap_without(judged, kind, target, missed, one) - base for one in KINDS}
    return Errors(kind, target, missed, base, cost)


def _kinds(judged: Judged) -> np.ndarray:
    own, other = judged.own_iou, judged.other_iou
    wrong = ~judged.found & ~judged.ignored
    conditions = [
        ~wrong,
        (own >= BACKGROUND_IOU) & (own < FOUND_IOU),
        other >= FOUND_IOU,
        own >= FOUND_IOU,
        np.maximum(own, other) < BACKGROUND_IOU,
    ]
    return np.select(conditions, ["", "box", "class", "duplicate", "background"], "both")


def _ap_without(judged: Judged, kind: np.ndarray, target: np.ndarray, missed: np.ndarray, one: str) -> float:
    """AP50 once the errors of one kind are put right."""
    classes, found, kept, objects = judged.detections.kind, judged.found, ~judged.ignored, judged.num_objects
    if one == "missed":
        objects = objects - np.bincount(judged.objects.kind[missed], minlength=len(objects))
        return _ap50(judged, classes, found, kept, objects)
    of_kind = kind == one
    mended = _mended(judged, of_kind, target) if one in ("box", "class") else np.zeros(len(kind), dtype=bool)
    classes = np.where(mended, judged.objects.kind[target] if len(judged.objects) else 0, classes)
    return _ap50(judged, classes, found | mended, kept & (~of_kind | mended), objects)


def _mended(judged: Judged, of_kind: np.ndarray, target: np.ndarray) -> np.ndarray:
    """(N,) the best detection at each object that none has found."""
    free = np.ones(len(judged.objects), dtype=bool)
    free[judged.match[judged.found]] = False
    mended = np.zeros(len(target), dtype=bool)
    rows = np.flatnonzero(of_kind)
    for row in rows[np.argsort(-judged.detections.score[rows], kind="stable")]:
        mended[row] = free[target[row]]
        free[target[row]] = False
    return mended


def _ap50(judged: Judged, classes: np.ndarray, found: np.ndarray, kept: np.ndarray, objects: np.ndarray) -> float:
    """COCO's AP at one IoU in percent, over the classes that have objects; NaN where none has."""
    present = np.flatnonzero(objects)
    values = [
        average_precision(judged.detections.score[rows], found[rows], int(objects[one]))
        for one in present
        for rows in [np.flatnonzero(kept & (classes == one))]
    ]
    return float(100 * np.mean(values)) if len(present) else float("nan")


def average_precision(scores: np.ndarray, found: np.ndarray, num_objects: int) -> float:
    """Mean over 101 recalls of the interpolated precision, 0..1; of equal scores the first come first."""
    order = np.argsort(-scores, kind="stable")
    right = np.cumsum(found[order])
    precision = right / np.arange(1, len(order) + 1)
    highest = np.maximum.accumulate(precision[::-1])[::-1]
    places = np.searchsorted(right / num_objects, RECALLS, side="left")
    return float(np.append(highest, 0.0)[places].mean())
