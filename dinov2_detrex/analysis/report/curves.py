"""How do precision, recall and F1 follow the score threshold, and which threshold is best? At an IoU of 0.5.

At a threshold t the detections with score >= t are kept; those within crowds do not count.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from dinov2_detrex.analysis.report.judged import FOUND_IOU, Judged

_DIGITS = 6


@dataclass(frozen=True)
class ThresholdCurve:
    """Counts at each of T thresholds, which are the distinct scores, falling.

    Attributes:
        thresholds: (T,) scores.
        right: (T,) detections kept that found an object.
        wrong: (T,) detections kept that found none.
        num_objects: to be found.
    """

    thresholds: np.ndarray
    right: np.ndarray
    wrong: np.ndarray
    num_objects: int

    @property
    def precision(self) -> np.ndarray:
        """(T,) 0..1"""
        return self.right / np.maximum(self.right + self.wrong, 1)

    @property
    def recall(self) -> np.ndarray:
        """(T,) 0..1"""
        return self.right / max(self.num_objects, 1)

    @property
    def f1(self) -> np.ndarray:
        """(T,) 0..1, the harmonic mean of both."""
        return 2 * self.right / np.maximum(self.right + self.wrong + self.num_objects, 1)

    def best(self) -> int | None:
        """Index of the best F1, of equal ones the highest threshold; None where no detection is right."""
        return int(self.f1.argmax()) if self.right.any() else None

    def at(self, threshold: float) -> int | None:
        """Index of the counts that hold at a threshold; None where it keeps nothing."""
        kept = int((self.thresholds >= threshold).sum())
        return kept - 1 if kept else None


def threshold_curve(judged: Judged, class_index: int | None = None) -> ThresholdCurve:
    """The curve of a class, or of all detections together under one threshold."""
    chosen = ~judged.ignored
    count = judged.num_objects.sum()
    if class_index is not None:
        chosen &= judged.detections.kind == class_index
        count = judged.num_objects[class_index]
    order = np.argsort(-judged.detections.score[chosen], kind="stable")
    scores, found = judged.detections.score[chosen][order], judged.found[chosen][order]
    ends = np.flatnonzero(np.append(np.diff(scores) != 0, True)) if len(scores) else np.zeros(0, dtype=np.int64)
    right = np.cumsum(found)[ends]
    return ThresholdCurve(scores[ends], right, ends + 1 - right, int(count))


def best_thresholds(judged: Judged) -> dict[str, Any]:
    """The thresholds of best F1, as a model package takes them.

    Returns:
        "default": that of all classes together, and "by_class": {name: score} of the classes that have one.
    """
    by_class = {}
    for index, name in enumerate(judged.class_names):
        curve = threshold_curve(judged, index)
        best = curve.best()
        if best is not None:
            by_class[name] = float(curve.thresholds[best])
    pooled = threshold_curve(judged)
    best = pooled.best()
    default = {} if best is None else {"default": float(pooled.thresholds[best])}
    return {**default, "by_class": by_class, "chosen_for": f"F1 at IoU {FOUND_IOU}"}


def thresholds_by_index(judged: Judged, thresholds: dict[str, Any], otherwise: float = 0.5) -> np.ndarray:
    """(C,) the threshold of each class."""
    default = thresholds.get("default", otherwise)
    return np.array([thresholds["by_class"].get(name, default) for name in judged.class_names])


def operating_points(judged: Judged, thresholds: np.ndarray) -> list[dict[str, Any]]:
    """Of each class: threshold, precision, recall, F1 and counts at its threshold."""
    return [_point(threshold_curve(judged, index), float(t)) for index, t in enumerate(thresholds)]


def _point(curve: ThresholdCurve, threshold: float) -> dict[str, Any]:
    index = curve.at(threshold)
    right, wrong = (0, 0) if index is None else (int(curve.right[index]), int(curve.wrong[index]))
    values = (0.0, 0.0, 0.0) if index is None else (curve.precision[index], curve.recall[index], curve.f1[index])
    named = dict(zip(("precision", "recall", "f1"), map(float, values)))
    return {"threshold": threshold, **named, "right": right, "wrong": wrong, "missed": curve.num_objects - right}


def thinned(curve: ThresholdCurve, count: int = 150) -> dict[str, list[float]]:
    """The curve for JSON and drawing, at no more than `count` thresholds, spread over their order."""
    rows = np.unique(np.linspace(0, len(curve.thresholds) - 1, count).round().astype(int)) if curve.right.size else []
    columns = {"threshold": curve.thresholds, "precision": curve.precision, "recall": curve.recall, "f1": curve.f1}
    return {name: [round(float(v), _DIGITS) for v in values[rows]] for name, values in columns.items()}
