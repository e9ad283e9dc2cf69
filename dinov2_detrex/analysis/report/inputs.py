"""Where do a report's truth and detections come from? From a run's folder, of this project, detectron2 or detrex."""

import json
import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from dinov2_detrex.config.loading import load
from dinov2_detrex.data.folders import VALIDATION
from dinov2_detrex.data.parts import part_of, parts_of
from dinov2_detrex.data.registration import source_in_config, used_source
from dinov2_detrex.data.source import DataSource, Document, split_path
from dinov2_detrex.evaluation.box_ap import MAX_DETS
from dinov2_detrex.evaluation.coco import RESULTS_FILE
from dinov2_detrex.runtime.errors import UserError, one_line
from dinov2_detrex.training.datasets import CHECK_OPTIONS, dataset_names
from dinov2_detrex.training.evaluation import BEST_RESULTS_FILE

logger = logging.getLogger(__name__)

BEST, FINAL = "best", "final"  # whose detections these are


@dataclass
class Inputs:
    """What is known of a run.

    Attributes:
        run: its folder.
        cfg: its config; None where there is none that this project reads.
        truth: the instances document that it was evaluated on; None where it is not there.
        image_root: of the truth's images.
        training: the instances document that it was trained on, or None.
        results: COCO results; None where there are none.
        results_file: they were read from.
        weights: whose detections they are: "best", "final", or "" where it is not known.
        max_dets: the evaluation's limit of boxes of an image and class.
        remarks: {part: why it is not there}, a sentence each.
    """

    run: Path
    cfg: DictConfig | None = None
    truth: Document | None = None
    image_root: Path | None = None
    training: Document | None = None
    results: list[dict[str, Any]] | None = None
    results_file: Path | None = None
    weights: str = ""
    max_dets: int = MAX_DETS
    remarks: dict[str, str] = field(default_factory=dict)


def read_inputs(
    run: Path, data: str | None = None, images: str | None = None, results: Path | None = None, weights: str = ""
) -> Inputs:
    """Read what is there; what is not leaves a remark.

    Args:
        run: the folder of a run.
        data: the data set that was evaluated on, in place of the config's: `FOLDER`, `FOLDER#part` or a file.
        images: the image folder of a file.
        results: the file of the detections, in place of what the run left.
        weights: whose they are.

    Raises:
        UserError: there is no such folder, or `data` cannot be read.
    """
    if not run.is_dir():
        raise UserError(f"{run} is no folder of a run")
    inputs = Inputs(run)
    _read_config(inputs)
    _read_truth(inputs, data, images)
    _read_training(inputs)
    _read_results(inputs, results, weights)
    return inputs


def _read_config(inputs: Inputs) -> None:
    try:
        inputs.cfg = load(str(inputs.run), [])
    except UserError as error:
        inputs.remarks["config"] = f"The run's config is not read: {one_line(error)}."
        return
    evaluator = inputs.cfg.dataloader.get("evaluator")
    if isinstance(evaluator, DictConfig):
        inputs.max_dets = evaluator.get("max_dets_per_image") or MAX_DETS


def _read_truth(inputs: Inputs, data: str | None, images: str | None) -> None:
    if data is not None:
        location, part = split_path(data)
        path = part_of(data, *VALIDATION) if part is None and Path(location).is_dir() else data
        source = used_source(parts_of(path, images)[""]).source
    else:
        source = _source(inputs, "test")
    if source is not None:
        inputs.truth, inputs.image_root = _document(source), Path(source.image_root or "")
    else:
        unknown = "The data set that the run was evaluated on is not known; name it with --data."
        inputs.remarks.setdefault("truth", unknown)


def _read_training(inputs: Inputs) -> None:
    source = _source(inputs, "train")
    if source is not None:
        inputs.training = _document(source)


def _source(inputs: Inputs, split: str) -> DataSource | None:
    """What the config's loader reads, as it is used after the check; None where that is not there any more."""
    loader = None if inputs.cfg is None else inputs.cfg.dataloader.get(split)
    names = dataset_names(loader)
    if loader is None or not names:
        return None
    try:
        source = source_in_config(loader.dataset, names[0])
        options = {key: loader.dataset[key] for key in CHECK_OPTIONS if key in loader.dataset}
        return None if source is None else used_source(source, **options).source
    except UserError as error:
        name = "truth" if split == "test" else "training"
        inputs.remarks[name] = f"The data are not read: {one_line(error)}."
        return None


def _document(source: DataSource) -> Document | None:
    document = source.load()
    return document if document.get("annotations") is not None else None


def _read_results(inputs: Inputs, given: Path | None, weights: str) -> None:
    found = [(given, weights)] if given else _candidates(inputs.run)
    for path, whose in found:
        if path.is_file():
            inputs.results, inputs.results_file, inputs.weights = _read_list(path), path, whose
            return
    inputs.remarks["results"] = (
        f"The run's folder holds no detections ({RESULTS_FILE}); --weights best evaluates the run once more."
    )


def _candidates(run: Path) -> list[tuple[Path, str]]:
    """Where an evaluation leaves its detections: the best weights' first; then here, or as detectron2's scripts do."""
    return [(run / BEST_RESULTS_FILE, BEST), (run / RESULTS_FILE, FINAL), (run / "inference" / RESULTS_FILE, FINAL)]


def _read_list(path: Path) -> list[dict[str, Any]]:
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is no JSON: {error}") from error
    keys = {"image_id", "category_id", "bbox", "score"}
    if not isinstance(rows, list) or not all(isinstance(row, dict) and keys <= row.keys() for row in rows):
        raise UserError(f"{path} is no list of COCO results (image_id, category_id, bbox, score)")
    return rows
