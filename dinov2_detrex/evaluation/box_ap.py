"""What is COCO's average precision (Lin et al. 2014) of boxes? `evaluate_boxes`, by hotcoco or by pycocotools.

hotcoco gives pycocotools' tables of precisions to the bit (tests/evaluation), those of 120,000 boxes in about 1/85 of
its time.
"""

import contextlib
import importlib.util
import io
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

logger = logging.getLogger(__name__)

MAX_DETS = 100  # COCO's limit of boxes per image

# name: (IoU threshold or None for the mean over .5:.05:.95, range of areas)
METRICS = {
    "AP": (None, "all"),
    "AP50": (0.5, "all"),
    "AP75": (0.75, "all"),
    "APs": (None, "small"),
    "APm": (None, "medium"),
    "APl": (None, "large"),
}


@dataclass(frozen=True)
class BoxAP:
    """COCO's table of precisions, at the largest limit of boxes per image.

    Attributes:
        precision: (T, R, K, A), 0..1, interpolated, of T IoU thresholds, R = 101 recalls 0, 0.01, ... 1, K categories
            and A ranges of areas; -1 where there was no object to be found.
        recall: (T, K, A, M), the largest that is reached within each of M limits, 0..1; -1 likewise.
        iou_thresholds: (T,).
        category_ids: K, the data set's own, ascending.
        areas: A names: all, small, medium, large (bounds 32 and 96 pixels squared).
        max_dets: the limits of boxes per image, ascending.
    """

    precision: np.ndarray
    recall: np.ndarray
    iou_thresholds: np.ndarray
    category_ids: list[int]
    areas: list[str]
    max_dets: list[int]

    def ap(self, iou: float | None = None, area: str = "all", category_id: int | None = None) -> float:
        """Mean precision over recalls in percent; NaN where no object was there to be found.

        Args:
            iou: one of the thresholds; None for the mean over all.
            area: one of the ranges.
            category_id: None for the mean over all categories.
        """
        table = self.precision[..., self.areas.index(area)]
        if category_id is not None:
            table = table[:, :, self.category_ids.index(category_id)]
        if iou is not None:
            table = table[np.isclose(self.iou_thresholds, iou)]
        defined = table[table > -1]
        return float(100 * defined.mean()) if defined.size else float("nan")

    def metrics(self) -> dict[str, float]:
        """{AP, AP50, AP75, APs, APm, APl} in percent."""
        return {name: self.ap(*condition) for name, condition in METRICS.items()}

    def summary(self) -> str:
        """pycocotools' own lines where the limits are COCO's, else one for each metric."""
        if self.max_dets != [1, 10, MAX_DETS]:
            limit = self.max_dets[-1]
            return "\n".join(f" {name:<5} (maxDets={limit}) = {v / 100:.3f}" for name, v in self.metrics().items())
        last = len(self.max_dets) - 1
        recalls = [("all", 0), ("all", 1), *((area, last) for area in self.areas)]
        return "\n".join(
            [_line("Precision", "AP", iou, area, MAX_DETS, self.ap(iou, area)) for iou, area in METRICS.values()]
            + [_line("Recall", "AR", None, area, self.max_dets[i], self._mean_recall(area, i)) for area, i in recalls]
        )

    def _mean_recall(self, area: str, limit_index: int) -> float:
        table = self.recall[:, :, self.areas.index(area), limit_index]
        defined = table[table > -1]
        return float(100 * defined.mean()) if defined.size else float("nan")


def _line(what: str, short: str, iou: float | None, area: str, limit: int, percent: float) -> str:
    threshold = "0.50:0.95" if iou is None else f"{iou:0.2f}"
    value = -1.0 if np.isnan(percent) else percent / 100
    where = f"IoU={threshold:<9} | area={area:>6s} | maxDets={limit:>3d}"
    return f" {f'Average {what}':<18} ({short}) @[ {where} ] = {value:0.3f}"


def evaluate_boxes(
    truth: Mapping[str, Any],
    results: Sequence[Mapping[str, Any]],
    max_dets: int = MAX_DETS,
    img_ids: Iterable | None = None,
    fast: bool = True,
) -> BoxAP:
    """Compare detections with the truth by COCO's rules.

    Args:
        truth: an instances document: "images", "annotations", "categories"; boxes XYWH in pixels. Where an annotation
            has no "iscrowd" or "area", it is no crowd, and as large as its box.
        results: {"image_id", "category_id", "bbox" XYWH in pixels, "score"}, at least one; they stay as they are.
        max_dets: only so many best boxes of an image and category count.
        img_ids: judge these images only.
        fast: by hotcoco where it is installed and all ids are integers; False: by pycocotools.
    """
    truth = _needed(truth)
    evaluation = (_hotcoco if fast and _fits_hotcoco(truth) else _pycocotools)(truth, results)
    limits = sorted({limit for limit in (1, 10) if limit < max_dets} | {max_dets})
    evaluation.params.maxDets = limits
    if img_ids is not None:
        evaluation.params.imgIds = list(img_ids)
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation.evaluate()
        evaluation.accumulate()
    found: Any = evaluation.eval
    return BoxAP(
        precision=found["precision"][..., -1],
        recall=found["recall"],
        iou_thresholds=np.asarray(evaluation.params.iouThrs),
        category_ids=[int(number) for number in evaluation.params.catIds],
        areas=list(evaluation.params.areaRngLbl),
        max_dets=limits,
    )


def _needed(truth: Mapping[str, Any]) -> dict[str, Any]:
    """A copy with what box AP needs and nothing else, complete."""
    return {
        "info": {},
        "images": [{"id": image["id"]} for image in truth["images"]],
        "categories": [{"id": category["id"], "name": str(category["name"])} for category in truth["categories"]],
        "annotations": [
            {
                "id": annotation["id"],
                "image_id": annotation["image_id"],
                "category_id": annotation["category_id"],
                "bbox": annotation["bbox"],
                "area": annotation.get("area", annotation["bbox"][2] * annotation["bbox"][3]),
                "iscrowd": annotation.get("iscrowd", 0),
            }
            for annotation in truth["annotations"]
        ],
    }


_process_with_threads: int | None = None  # that computed with hotcoco


def _fits_hotcoco(truth: Mapping[str, Any]) -> bool:
    """Whether hotcoco can do it here: its threads do not survive a fork, and the child would wait for them forever."""
    if _process_with_threads not in (None, os.getpid()):
        return False
    if importlib.util.find_spec("hotcoco") is None:
        logger.info("evaluated by pycocotools; `pip install hotcoco` does the same in about 1/85 of the time")
        return False
    return all(isinstance(image["id"], int) for image in truth["images"])


def _hotcoco(truth: dict[str, Any], results: Sequence[Mapping[str, Any]]):
    from hotcoco import COCO, COCOeval  # pyright: ignore[reportMissingImports]  # with --no-deps it may be missing

    global _process_with_threads
    _process_with_threads = os.getpid()
    ground = COCO(truth)
    rows = [(r["image_id"], *r["bbox"], r["score"], r["category_id"]) for r in results]
    return COCOeval(ground, ground.load_res(np.array(rows, dtype=np.float64)), "bbox")


def _pycocotools(truth: dict[str, Any], results: Sequence[Mapping[str, Any]]):
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        ground = COCO()
        ground.dataset = cast(Any, truth)
        ground.createIndex()
        rows = [dict(row) for row in results]  # pycocotools writes into them
        return COCOeval(ground, ground.loadRes(cast(Any, rows)), "bbox")
