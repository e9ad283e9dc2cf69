"""COCO's box AP as a detectron2 evaluator: `COCOEvaluator`, with an installed detectron2 and with the fallback."""

import itertools
import json
import logging
import os
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from detectron2.data import MetadataCatalog
from detectron2.data.datasets import convert_to_coco_json
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.evaluation.evaluator import DatasetEvaluator
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager
from detectron2.utils.logger import create_small_table
from tabulate import tabulate

from dinov2_detrex.evaluation.box_ap import MAX_DETS, METRICS, BoxAP, evaluate_boxes
from dinov2_detrex.runtime import files

logger = logging.getLogger(__name__)

RESULTS_FILE = "coco_instances_results.json"  # all detections as COCO results, in the evaluator's `output_dir`


class COCOEvaluator(DatasetEvaluator):
    """COCO's box AP of `Instances` with pred_boxes, scores and pred_classes at the original image size.

    It takes the arguments of detectron2's class of that name and gives its results, files and log lines.

    Args:
        dataset_name: registered; its `json_file` holds the truth. Without one the data set is converted first.
        tasks: ("bbox",) or None.
        distributed: gather the predictions of all processes; False judges those of this process alone.
        output_dir: if given, `instances_predictions.pth` and `coco_instances_results.json` are written there.
        max_dets_per_image: only so many best boxes of an image count; default 100.
        use_fast_impl: compute by hotcoco where it is installed; False: by pycocotools. The numbers are the same.
        kpt_oks_sigmas: accepted for callers.
        allow_cached_coco: a converted data set may be used again.

    Raises:
        ValueError: the data set has no JSON and there is no output_dir to convert it to.
        AssertionError: an unknown task.
        NotImplementedError: "segm" or "keypoints".
    """

    def __init__(
        self,
        dataset_name: str,
        tasks: Sequence[str] | None = None,
        distributed: bool = True,
        output_dir: str | os.PathLike | None = None,
        *,
        max_dets_per_image: int | None = None,
        use_fast_impl: bool = True,
        kpt_oks_sigmas: Sequence[float] = (),
        allow_cached_coco: bool = True,
    ):
        _check_tasks(tasks)
        self._distributed = distributed
        self._output_dir = output_dir
        self._max_dets = MAX_DETS if max_dets_per_image is None else max_dets_per_image
        self._fast = use_fast_impl
        self._metadata = MetadataCatalog.get(dataset_name)
        if not hasattr(self._metadata, "json_file"):
            self._metadata.json_file = _converted_json(dataset_name, output_dir, allow_cached_coco)
        self._truth = _read_truth(self._metadata.json_file)
        self._predictions: list[dict] = []

    def reset(self) -> None:
        self._predictions = []

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        """Take in a batch: "image_id" of each input, "instances" of each output."""
        for record, output in zip(inputs, outputs):
            if "instances" in output:
                instances = output["instances"].to(torch.device("cpu"))
                rows = instances_to_coco_json(instances, record["image_id"])
                self._predictions.append({"image_id": record["image_id"], "instances": rows})

    def evaluate(self, img_ids: Sequence | None = None) -> dict[str, dict[str, float]]:
        """{"bbox": {AP, AP50, AP75, APs, APm, APl, AP-<class> ...}}, 0..100, NaN where there is nothing to measure.

        Args:
            img_ids: judge these images only.

        Returns:
            {} on other processes than the main one, and when nothing was processed; nothing in it when the JSON has
            no annotations.

        Raises:
            AssertionError, KeyError: a predicted class above or below the data set's range.
        """
        predictions = self._gathered()
        if not comm.is_main_process():
            return {}
        if not predictions:
            logger.warning("COCOEvaluator did not receive any predictions")
            return {}
        results = self._with_dataset_ids(predictions)
        if self._output_dir:
            _write(self._output_dir, predictions, results)
        if "annotations" not in self._truth:
            logger.info("the annotations are not available: nothing to evaluate")
            return OrderedDict()
        return OrderedDict(bbox=self._box_metrics(results, img_ids))

    def _gathered(self) -> list[dict]:
        if not self._distributed:
            return self._predictions
        comm.synchronize()
        return list(itertools.chain(*comm.gather(self._predictions, dst=0)))

    def _dataset_ids(self) -> list[int]:
        """The data set's category id of each contiguous class; from the JSON where the metadata has no mapping."""
        mapping = self._metadata.get("thing_dataset_id_to_contiguous_id")
        if mapping is None:
            return sorted(category["id"] for category in self._truth["categories"])
        return sorted(mapping, key=mapping.get)

    def _class_names(self) -> dict[int, str]:
        """{category id of the data set: name}; the metadata's names win over the JSON's."""
        names = {category["id"]: category["name"] for category in self._truth["categories"]}
        return names | dict(zip(self._dataset_ids(), self._metadata.get("thing_classes", ())))

    def _with_dataset_ids(self, predictions: list[dict]) -> list[dict]:
        """All boxes in one list, with the JSON's category ids; the predictions stay as they are."""
        ids = self._dataset_ids()
        rows = []
        for row in itertools.chain.from_iterable(prediction["instances"] for prediction in predictions):
            category, known = row["category_id"], f"the data set has the classes 0..{len(ids) - 1}"
            assert category < len(ids), f"a prediction has class {category}, but {known}"
            if category < 0:
                raise KeyError(f"a prediction has class {category}, but {known}")
            rows.append({**row, "category_id": ids[category]})
        return rows

    def _box_metrics(self, results: list[dict], img_ids: Sequence | None) -> dict[str, float]:
        if not results:
            logger.warning("no predictions from the model")
            return {name: float("nan") for name in METRICS}
        judged = evaluate_boxes(self._truth, results, self._max_dets, img_ids, self._fast)
        metrics = judged.metrics()
        print(judged.summary())
        logger.info("Evaluation results for bbox:\n%s", create_small_table(metrics))
        if not all(np.isfinite(list(metrics.values()))):
            logger.info("NaN: there is nothing to measure")
        names = self._class_names()
        if len(names) < 2:
            return metrics
        per_class = _per_class(judged, names)
        logger.info("Per-category bbox AP:\n%s", _three_columns(per_class))
        return metrics | {f"AP-{name}": value for name, value in per_class.items()}


def _write(output_dir: str | os.PathLike, predictions: list[dict], results: list[dict]) -> None:
    files.write(os.path.join(output_dir, "instances_predictions.pth"), predictions)
    path = os.path.join(output_dir, RESULTS_FILE)
    logger.info("saving results to %s", path)
    files.write_json(path, results)


def _check_tasks(tasks: Sequence[str] | None) -> None:
    for task in tasks or ():
        assert task in ("bbox", "segm", "keypoints"), f"unknown task {task!r}: expected 'bbox'"
        if task != "bbox":
            raise NotImplementedError(f"COCOEvaluator: task {task!r} needs the real detectron2's class")


def _read_truth(json_file: str | os.PathLike) -> dict[str, Any]:
    with open(PathManager.get_local_path(os.fspath(json_file)), encoding="utf-8") as file:
        return json.load(file)


def _converted_json(dataset_name: str, output_dir: str | os.PathLike | None, allow_cached: bool) -> str:
    if output_dir is None:
        raise ValueError(f"data set {dataset_name!r} has no json_file: output_dir is needed to convert it")
    path = os.path.join(output_dir, f"{dataset_name}_coco_format.json")
    convert_to_coco_json(dataset_name, path, allow_cached=allow_cached)
    return path


def _per_class(judged: BoxAP, names: dict[int, str]) -> dict[str, float]:
    return {names[number]: judged.ap(category_id=number) for number in judged.category_ids}


def _three_columns(per_class: dict[str, float]) -> str:
    width = min(3, len(per_class))
    rows = list(per_class.items())
    lines = [sum(rows[i : i + width], ()) for i in range(0, len(rows), width)]
    return tabulate(lines, headers=["category", "AP"] * width, tablefmt="pipe", floatfmt=".3f", numalign="left")
