"""What is there to say of a run? All of a report's numbers, found once, and their form for JSON."""

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dinov2_detrex.analysis.report import confusion, curves, pictures
from dinov2_detrex.analysis.report.costs import run_costs
from dinov2_detrex.analysis.report.error_kinds import Errors, find_errors
from dinov2_detrex.analysis.report.history import History, read_history
from dinov2_detrex.analysis.report.inputs import Inputs
from dinov2_detrex.analysis.report.judged import Judged, judge
from dinov2_detrex.analysis.report.pictures import Pair, Worst
from dinov2_detrex.analysis.report.suspects import Suspect, find_suspects
from dinov2_detrex.data.source import Document
from dinov2_detrex.evaluation.box_ap import METRICS, BoxAP, evaluate_boxes
from dinov2_detrex.visualization.dataset_statistics import DatasetStatistics, statistics_of, summarized

_SHOWN_SUSPECTS = 8


@dataclass(frozen=True)
class Detected:
    """What the detections say.

    Attributes:
        judged: detections beside the truth.
        ap: COCO's tables.
        thresholds: of best F1, see `curves.best_thresholds`.
        by_index: (C,) the same for each class.
        points: precision, recall and F1 of each class at its threshold.
        matrix: (C + 1, C + 1), see `confusion`.
        errors: by kind.
        suspects: probable label errors.
        worst: images with the most errors.
    """

    judged: Judged
    ap: BoxAP
    thresholds: dict[str, Any]
    by_index: np.ndarray
    points: list[dict[str, Any]]
    matrix: np.ndarray
    errors: Errors
    suspects: list[Suspect]
    worst: list[Worst]


@dataclass(frozen=True)
class Findings:
    """A report's content.

    Attributes:
        inputs: what it was made of.
        history: what the run logged.
        costs: see `costs.run_costs`.
        statistics: {"train", "val": of the data}.
        detected: None without detections or truth.
        remarks: why parts are not there, a sentence each.
        worst_pictures, suspect_pictures: of `detected`.
    """

    inputs: Inputs
    history: History
    costs: dict[str, Any]
    statistics: dict[str, DatasetStatistics]
    detected: Detected | None
    remarks: list[str]
    worst_pictures: list[Pair] = field(default_factory=list)
    suspect_pictures: list[Pair] = field(default_factory=list)


def find(inputs: Inputs) -> Findings:
    """All that can be said of a run.

    Raises:
        UserError: the detections are not of the data set's images.
    """
    history = read_history(inputs.run)
    remarks = list(inputs.remarks.values())
    if not history.series:
        remarks.append("The run's folder holds no metrics.json, so there are no curves.")
    detected = _detected(inputs)
    drawn: tuple[list[Pair], list[Pair]] = ([], [])
    if detected is not None and inputs.image_root is not None:
        drawn = (
            pictures.draw_worst(detected.judged, detected.by_index, detected.worst, inputs.image_root),
            pictures.draw_suspects(detected.judged, detected.suspects[:_SHOWN_SUSPECTS], inputs.image_root),
        )
        if detected.worst and not drawn[0]:
            remarks.append(f"The images are not drawn: their files cannot be read in {inputs.image_root}.")
    documents = {"train": inputs.training, "val": inputs.truth}
    statistics = {name: one for name, doc in documents.items() if (one := _statistics(doc)) is not None}
    costs = run_costs(inputs.run, history, inputs.cfg)
    return Findings(inputs, history, costs, statistics, detected, remarks, *drawn)


def _statistics(document: Document | None) -> DatasetStatistics | None:
    """None without a document, or where it does not tell the sizes of its images."""
    if document is None or not all({"height", "width"} <= image.keys() for image in document["images"]):
        return None
    return statistics_of(document)


def _detected(inputs: Inputs) -> Detected | None:
    if inputs.truth is None or inputs.results is None:
        return None
    judged = judge(inputs.truth, inputs.results, inputs.max_dets)
    thresholds = curves.best_thresholds(judged)
    by_index = curves.thresholds_by_index(judged, thresholds)
    errors = find_errors(judged)
    results = inputs.results or [_nothing(inputs.truth)]
    return Detected(
        judged=judged,
        ap=evaluate_boxes(inputs.truth, results, inputs.max_dets),
        thresholds=thresholds,
        by_index=by_index,
        points=curves.operating_points(judged, by_index),
        matrix=confusion.confusion_matrix(judged, by_index),
        errors=errors,
        suspects=find_suspects(judged, errors, by_index),
        worst=pictures.worst_images(judged, by_index),
    )


def _nothing(truth: Document) -> dict[str, Any]:
    """A result that is none, for libraries that want at least one: a point, in a class's first image, of score 0."""
    return {
        "image_id": truth["images"][0]["id"],
        "category_id": truth["categories"][0]["id"],
        "bbox": [0.0, 0.0, 0.0, 0.0],
        "score": 0.0,
    }


# ------------------------------------------------------------------------------------------------------------- JSON


def plain(findings: Findings) -> dict[str, Any]:
    """All numbers as JSON holds them; null for what is not finite."""
    inputs, history = findings.inputs, findings.history
    return _finite(
        {
            "run": str(inputs.run.resolve().name),
            "remarks": findings.remarks,
            "weights": inputs.weights,
            "costs": findings.costs,
            "curves": {
                name: {"iteration": one.iterations.tolist(), "value": one.values.tolist()}
                for name, one in history.series.items()
            },
            "data": {name: summarized(one) for name, one in findings.statistics.items()},
            **({} if findings.detected is None else plain_detected(findings.detected)),
        }
    )


def plain_detected(detected: Detected) -> dict[str, Any]:
    """What is known of the detections."""
    judged, ap = detected.judged, detected.ap
    return {
        "ap": ap.metrics(),
        "ap_by_iou": {f"{iou:.2f}": ap.ap(float(iou)) for iou in ap.iou_thresholds},
        "classes": class_rows(detected),
        "precision_recall": [
            {"name": name} | curves.thinned(curves.threshold_curve(judged, index))
            for index, name in enumerate(judged.class_names)
        ],
        "confusion": {"names": [*judged.class_names, "background"], "counts": detected.matrix.tolist()},
        "errors": {"ap50": detected.errors.ap50, "cost": detected.errors.cost, "count": detected.errors.counts()},
        "label_suspects": pictures.described(judged, detected.suspects),
        "worst_images": [
            {"file_name": judged.images[one.image]["file_name"], "wrong": one.wrong, "missed": one.missed}
            for one in detected.worst
        ],
    }


def class_rows(detected: Detected) -> list[dict[str, Any]]:
    """Of each class: name, objects, AP by size and by IoU, and its point on the curves."""
    judged, ap = detected.judged, detected.ap
    rows = []
    for index, name in enumerate(judged.class_names):
        category = judged.category_ids[index]
        metrics = {metric: ap.ap(iou, area, category) for metric, (iou, area) in METRICS.items()}
        by_iou = {f"{iou:.2f}": ap.ap(float(iou), category_id=category) for iou in ap.iou_thresholds}
        row = {"name": name, "objects": int(judged.num_objects[index]), **metrics, "by_iou": by_iou}
        rows.append(row | detected.points[index])
    return rows


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
