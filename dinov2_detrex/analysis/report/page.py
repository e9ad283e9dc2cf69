"""How do findings become a page? Words, tables and charts for the template page.html, which escapes what it shows."""

import math
from importlib import resources
from typing import Any

import numpy as np

from dinov2_detrex.analysis.report import confusion, curves, pictures
from dinov2_detrex.analysis.report.charts import Chart, Line, svg
from dinov2_detrex.analysis.report.costs import in_words
from dinov2_detrex.analysis.report.error_kinds import KINDS
from dinov2_detrex.analysis.report.findings import Detected, Findings, class_rows
from dinov2_detrex.analysis.report.history import EMA, History, Series
from dinov2_detrex.analysis.report.judged import FOUND_IOU
from dinov2_detrex.evaluation.box_ap import METRICS, BoxAP
from dinov2_detrex.training.progress import MEMORY
from dinov2_detrex.visualization.dataset_statistics import DatasetStatistics, summarized

MATRIX_CLASSES = 20  # a larger matrix cannot be read
_CHARTED_CLASSES = 8
_RECALLS = np.linspace(0, 1, 101)
_MEANINGS = {
    "class": "an object of another class, overlapped by at least 0.5",
    "box": "an object of its class, overlapped by 0.1 to 0.5 only",
    "both": "an object of another class, overlapped by 0.1 to 0.5",
    "duplicate": "an object that another detection has found",
    "background": "no object is overlapped by 0.1",
    "missed": "objects that no detection found, not even with a wrong class or box",
}
_WHOSE = {"best": "the best weights", "final": "the last evaluation"}
_PARTS = {
    "ap": "Average precision",
    "thresholds": "Thresholds",
    "confusion": "Confusions",
    "errors": "Errors",
    "labels": "Label errors",
    "worst": "Worst images",
    "curves": "Curves",
    "data": "Data",
    "costs": "Cost",
}


def page(findings: Findings) -> str:
    """The HTML."""
    from jinja2 import Environment  # torch needs both as well
    from markupsafe import Markup

    source = resources.files("dinov2_detrex.analysis.report").joinpath("page.html").read_text(encoding="utf-8")
    template = Environment(autoescape=True).from_string(source)
    content = _head(findings) | {"history_charts": history_charts(findings.history), "costs": in_words(findings.costs)}
    content["statistics"] = [_statistics(name, one) for name, one in findings.statistics.items()]
    if findings.detected is not None:
        content |= _detected(findings, findings.detected)
    shown = {"curves": "history_charts", "data": "statistics", "costs": "costs"}
    parts = [(key, name) for key, name in _PARTS.items() if content.get(shown.get(key, "ap_charts"))]
    return template.render(svg=lambda chart: Markup(svg(chart)), parts=parts, **content)


def _head(findings: Findings) -> dict[str, Any]:
    inputs, detected = findings.inputs, findings.detected
    tiles = [] if detected is None else [(name, percent(value)) for name, value in detected.ap.metrics().items()]
    whose = _WHOSE.get(inputs.weights, "")
    subtitle = f"{len(detected.judged.images)} images, " if detected else ""
    subtitle += f"{detected.judged.num_objects.sum()} objects, " if detected else ""
    subtitle += f"detections of {whose}" if whose and detected else ""
    name = inputs.run.resolve().name
    return {"title": f"Report on {name}", "subtitle": subtitle.strip(", "), "tiles": tiles, "remarks": findings.remarks}


def percent(value: float | None) -> str:
    """One decimal; a dash for nothing to measure."""
    return "–" if value is None or not math.isfinite(value) else f"{value:.1f}"


def share(value: float) -> str:
    """Three decimals."""
    return f"{value:.3f}"


# ------------------------------------------------------------------------------------------------------- the run


def history_charts(history: History) -> list[Chart]:
    """Each loss with those of its layers, learning rates, AP, time and memory, as far as they were logged."""
    groups = [(f"{base.replace('_', ' ')}", "loss", lines) for base, lines in history.losses().items()]
    groups.append(("learning rate", "rate", history.rates()))
    groups.append(("average precision", "AP / %", _without_class(history.average_precisions())))
    groups.append(("time of an iteration", "s", history.named("time", "data_time")))
    groups.append(("peak memory", "MB", history.named(MEMORY)))
    groups.append(("gradient norm", "norm", history.named("[metric]grad_norm", "grad_norm")))
    measured = [(title, label, _measured(lines)) for title, label, lines in groups]
    return [_history_chart(title, label, lines) for title, label, lines in measured if lines]


def _measured(series: dict[str, Series]) -> dict[str, Series]:
    """Those with any number, as APl has none where no object is large."""
    return {name: one for name, one in series.items() if np.isfinite(one.values).any()}


def _without_class(series: dict[str, Series]) -> dict[str, Series]:
    return {name.replace("bbox/", "").replace(EMA, "averaged "): one for name, one in series.items()}


def _history_chart(title: str, label: str, series: dict[str, Series]) -> Chart:
    lines = [Line(name, one.iterations, one.values) for name, one in series.items()]
    last = max(int(one.iterations[-1]) for one in series.values())
    top = _top(series)
    return Chart(title, "iteration", label, lines, (0.0, float(max(last, 1))), (0.0, top) if top > 0 else None)


def _top(series: dict[str, Series]) -> float:
    """Above all values; 0 where one is negative, so that the axis follows the values."""
    values = np.concatenate([one.values for one in series.values()])
    values = values[np.isfinite(values)]
    return float(values.max()) * 1.05 if len(values) and values.min() >= 0 else 0.0


def _statistics(name: str, statistics: DatasetStatistics) -> tuple[str, str, list[list[str]]]:
    numbers = summarized(statistics)
    per_image = numbers["objects_per_image"]
    sizes = numbers["image_sizes_hw"]
    sentence = (
        f"{numbers['images']:,} images, {numbers['images_without_objects']:,} without objects; "
        f"{numbers['all']['objects']:,} objects, {per_image['mean']:.1f} an image, {per_image['max']} at most"
    )
    if sizes["min"] is not None:
        (low_h, low_w), (high_h, high_w) = sizes["min"], sizes["max"]
        sentence += f"; heights {low_h} to {high_h}, widths {low_w} to {high_w} pixels"
    rows = [_counts(one["name"], one) for one in numbers["classes"]] + [_counts("all", numbers["all"])]
    return {"train": "Training", "val": "Evaluation"}[name], f"{sentence}.", rows


def _counts(name: str, numbers: dict[str, Any]) -> list[str]:
    cells = [f"{numbers[key]:,}" for key in ("images", "objects", "small", "medium", "large")]
    return [name, *cells, percent(numbers["median_side_px"]), f"{numbers['crowds']:,}"]


# ------------------------------------------------------------------------------------------------- the detections


def _detected(findings: Findings, detected: Detected) -> dict[str, Any]:
    rows = class_rows(detected)
    return {
        "ap_note": _ap_note(detected),
        "ap_charts": ap_charts(detected.ap, detected.judged.class_names),
        "ap_columns": ["class", "objects", *METRICS],
        "ap_rows": [_ap_row(row) for row in rows] + [_all_row(detected)],
        "iou_columns": ["class", *(f"{iou:.2f}" for iou in detected.ap.iou_thresholds)],
        "iou_rows": [[row["name"], *map(percent, row["by_iou"].values())] for row in rows],
        "point_columns": ["class", "threshold", "F1", "precision", "recall", "right", "wrong", "missed"],
        "point_rows": [_point_row(row, detected) for row in rows],
        "class_charts": _class_charts(detected),
        **_confusions(detected),
        **_errors(detected),
        **_suspects(findings, detected),
        "worst_pictures": findings.worst_pictures,
        "worst_rows": [
            [detected.judged.images[one.image]["file_name"], one.wrong, one.missed] for one in detected.worst
        ],
    }


def _ap_note(detected: Detected) -> str:
    without = int((detected.judged.num_objects == 0).sum())
    return f" {without} classes have no objects here and are left out of the mean." if without else ""


def ap_charts(ap: BoxAP, names: list[str]) -> list[Chart]:
    """AP over IoU, and precision over recall at an IoU of 0.5: of all classes, and of each where they are few."""
    few = list(zip(names, ap.category_ids)) if 1 < len(names) <= _CHARTED_CLASSES else []
    series = [("all classes", None), *few]
    by_iou = [
        Line(name, ap.iou_thresholds, [ap.ap(float(iou), category_id=number) for iou in ap.iou_thresholds])
        for name, number in series
    ]
    table = _precision_at_half(ap)
    present = np.asarray((table > -1).all(axis=0))
    by_recall = [Line("all classes", _RECALLS, table[:, present].mean(axis=1))] if present.any() else []
    by_recall += [Line(name, _RECALLS, table[:, i]) for i, (name, _) in enumerate(few) if present[i]]
    bounds = (0.0, 1.0)
    return [
        Chart("AP over IoU", "IoU", "AP / %", by_iou, (0.5, 0.95), (0.0, 100.0)),
        Chart("Precision over recall at IoU 0.5", "recall", "precision", by_recall, bounds, bounds),
    ]


def _precision_at_half(ap: BoxAP) -> np.ndarray:
    """(101, C) interpolated precision at an IoU of 0.5, by recall; -1 for classes without objects."""
    return ap.precision[np.isclose(ap.iou_thresholds, FOUND_IOU)][0, :, :, ap.areas.index("all")]


def _ap_row(row: dict[str, Any]) -> list[str]:
    return [row["name"], f"{row['objects']:,}", *(percent(row[metric]) for metric in METRICS)]


def _all_row(detected: Detected) -> list[str]:
    metrics = detected.ap.metrics()
    return ["all", f"{detected.judged.num_objects.sum():,}", *(percent(metrics[metric]) for metric in METRICS)]


def _threshold(name: str, value: float, detected: Detected) -> str:
    """A class's own best one, or what stands in for it."""
    return share(value) + ("" if name in detected.thresholds["by_class"] else " (default)")


def _point_row(row: dict[str, Any], detected: Detected) -> list[str]:
    threshold = _threshold(row["name"], row["threshold"], detected)
    shares = [share(row[key]) for key in ("f1", "precision", "recall")]
    counts = [f"{row[key]:,}" for key in ("right", "wrong", "missed")]
    return [row["name"], threshold, *shares, *counts]


def _class_charts(detected: Detected) -> list[tuple[str, list[Chart]]]:
    """Of each class with objects, the most frequent first: precision and recall, and F1 over the threshold."""
    judged, at_half = detected.judged, _precision_at_half(detected.ap)
    order = np.argsort(-judged.num_objects, kind="stable")
    charts = []
    for index in order[judged.num_objects[order] > 0]:
        name, threshold = judged.class_names[index], float(detected.by_index[index])
        columns = curves.thinned(curves.threshold_curve(judged, int(index)))
        lines = [Line(key.upper() if key == "f1" else key, columns["threshold"], columns[key]) for key in _SHOWN]
        recalls = [Line(name, _RECALLS, at_half[:, index])]
        title = f"{name}: over the threshold, best at {_threshold(name, threshold, detected)}"
        pair = [
            Chart(f"{name}: precision over recall", "recall", "precision", recalls, *_01),
            Chart(title, "threshold", "", lines, *_01, mark=threshold),
        ]
        charts.append((name, pair))
    return charts


_SHOWN = ("f1", "precision", "recall")
_01 = ((0.0, 1.0), (0.0, 1.0))


def _confusions(detected: Detected) -> dict[str, Any]:
    names = [*detected.judged.class_names, "background"]
    counts = detected.matrix
    cells = None
    if len(names) <= MATRIX_CLASSES + 1:
        shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        cells = [[(int(c), f"{0.75 * s:.2f}") for c, s in zip(*row)] for row in zip(counts, shares)]
    pairs = confusion.largest_confusions(counts, detected.judged.class_names)
    return {
        "matrix": cells,
        "matrix_names": names,
        "confusions": [[pair["truth"], pair["detected"], pair["count"]] for pair in pairs],
    }


def _errors(detected: Detected) -> dict[str, Any]:
    errors, counts = detected.errors, detected.errors.counts()
    largest = max([*errors.cost.values(), 1e-9])
    rows = []
    for kind in KINDS:
        cost = errors.cost[kind]
        width = max(0.0, cost / largest) if math.isfinite(cost) else 0.0
        rows.append((kind, percent(cost), f"{counts[kind]:,}", f"{width:.3f}", _MEANINGS[kind]))
    return {"ap50": percent(errors.ap50), "errors": rows}


def _suspects(findings: Findings, detected: Detected) -> dict[str, Any]:
    rows = pictures.described(detected.judged, detected.suspects[:20])
    keys = ("file_name", "suspected", "detected", "labelled")
    return {
        "suspect_count": len(detected.suspects),
        "suspect_pictures": findings.suspect_pictures,
        "suspect_rows": [[*(row[key] or "–" for key in keys), f"{row['score']:.2f}"] for row in rows],
    }
