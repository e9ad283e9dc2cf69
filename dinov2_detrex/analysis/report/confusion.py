"""Which classes are taken for which? Objects against detections at given thresholds, with background.

Objects that are found by their own class are on the diagonal, as for F1. What remains on both sides, an object and a
detection of another class at an IoU of at least 0.5, best score first, is a confusion; the rest is background.
"""

import numpy as np
from pycocotools import mask as coco_masks

from dinov2_detrex.analysis.report.judged import FOUND_IOU, Judged


def kept_detections(judged: Judged, thresholds: np.ndarray) -> np.ndarray:
    """(N,) True at or above the threshold of its class, (C,), and within no crowd."""
    return (judged.detections.score >= thresholds[judged.detections.kind]) & ~judged.ignored


def cross_matches(judged: Judged, kept: np.ndarray) -> np.ndarray:
    """(N,) the object of another class that a kept detection is taken up by, -1 for none."""
    matches = np.full(len(kept), -1)
    free = ~judged.objects.crowd
    free[judged.match[kept & judged.found]] = False
    open_rows = np.flatnonzero(kept & ~judged.found & (judged.other_iou >= FOUND_IOU))
    order = open_rows[np.argsort(-judged.detections.score[open_rows], kind="stable")]
    for row in order:
        candidates = np.flatnonzero(free & (judged.objects.image == judged.detections.image[row]))
        if not len(candidates):
            continue
        iou = np.asarray(
            coco_masks.iou(judged.detections.xywh[row][None], judged.objects.xywh[candidates], [0] * len(candidates))
        )[0]
        best = int(iou.argmax())
        if iou[best] >= FOUND_IOU:
            matches[row] = candidates[best]
            free[candidates[best]] = False
    return matches


def confusion_matrix(judged: Judged, thresholds: np.ndarray) -> np.ndarray:
    """(C + 1, C + 1) counts: rows are what is there, columns what was detected; the last of each is background."""
    background = len(judged.class_names)
    matrix = np.zeros((background + 1, background + 1), dtype=np.int64)
    kept = kept_detections(judged, thresholds)
    target = np.where(kept & judged.found, judged.match, cross_matches(judged, kept))
    truth = np.where(target >= 0, judged.objects.kind[target] if len(judged.objects) else 0, background)
    np.add.at(matrix, (truth[kept], judged.detections.kind[kept]), 1)
    missed = ~judged.objects.crowd
    missed[target[target >= 0]] = False
    np.add.at(matrix, (judged.objects.kind[missed], np.full(missed.sum(), background)), 1)
    return matrix


def largest_confusions(matrix: np.ndarray, names: list[str], count: int = 15) -> list[dict]:
    """The pairs of different classes that are confused most often, without background."""
    cells = matrix[:-1, :-1].copy()
    np.fill_diagonal(cells, 0)
    order = np.argsort(-cells, axis=None, kind="stable")[:count]
    pairs = [np.unravel_index(index, cells.shape) for index in order] if cells.size else []
    return [
        {"truth": names[row], "detected": names[column], "count": int(cells[row, column])}
        for row, column in pairs
        if cells[row, column]
    ]
