"""The inference loop, and COCO box AP against pycocotools run directly."""

import contextlib
import io
import json
import logging
import math

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.evaluation import (
    COCOEvaluator,
    DatasetEvaluator,
    DatasetEvaluators,
    inference_context,
    inference_on_dataset,
    print_csv_format,
)
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.evaluation.testing import flatten_results_dict
from detectron2.structures import Boxes, Instances
from engine.small_coco import CATEGORIES, box_annotation
from torch import nn

NAME = "test_evaluation_set"
NAMES = ("ball", "cube", "cone")  # by ascending id: 3, 7, 12
IDS = (3, 7, 12)


def truth(num_images: int = 8, seed: int = 0) -> dict:
    """Images of 200 x 300 with up to 6 objects from 8 to 150 pixels, one crowd."""
    rng = np.random.RandomState(seed)
    images = [{"id": 10 + i, "file_name": f"{i}.png", "height": 200, "width": 300} for i in range(num_images)]
    annotations = []
    for image in images:
        for _ in range(rng.randint(0, 7)):
            w, h = np.exp(rng.uniform(np.log(8), np.log(150), 2)).round(1)
            x, y = (rng.uniform(0, (300 - w, 200 - h))).round(1)
            bbox = [float(v) for v in (x, y, w, h)]
            annotations.append(box_annotation(len(annotations) + 1, image["id"], IDS[rng.randint(3)], bbox))
    annotations[3]["iscrowd"] = 1
    categories = [{"id": number, "name": name} for number, name in CATEGORIES]
    return {"info": {}, "images": images, "annotations": annotations, "categories": categories}


def predict(content: dict, seed: int = 1, extra: int = 0) -> dict[int, Instances]:
    """Image id to predictions: the truth moved a bit, some missed, some of another class, some invented."""
    rng = np.random.RandomState(seed)
    boxes = {image["id"]: [] for image in content["images"]}
    for annotation in content["annotations"]:
        if rng.rand() < 0.85:
            x, y, w, h = np.array(annotation["bbox"]) + rng.normal(0, 3, 4)
            label = IDS.index(annotation["category_id"]) if rng.rand() < 0.8 else rng.randint(3)
            boxes[annotation["image_id"]].append([x, y, x + abs(w), y + abs(h), rng.rand(), label])
    for image_boxes in boxes.values():
        for _ in range(rng.randint(0, 4) + extra):
            x, y, w, h = rng.uniform(0, 100, 4)
            image_boxes.append([x, y, x + w, y + h, rng.rand(), rng.randint(3)])
    return {image_id: as_instances(rows) for image_id, rows in boxes.items()}


def as_instances(rows: list) -> Instances:
    table = torch.tensor(rows, dtype=torch.float64).reshape(-1, 6)
    scores, classes = table[:, 4].float(), table[:, 5].long()
    return Instances((200, 300), pred_boxes=Boxes(table[:, :4]), scores=scores, pred_classes=classes)


@pytest.fixture
def content():
    return truth()


@pytest.fixture
def registered(tmp_path, content):
    """The data set's name; its JSON is `content`, which a test may not change any more. Not loaded."""
    path = tmp_path / "truth.json"
    path.write_text(json.dumps(content))
    register_coco_instances(NAME, {}, str(path), str(tmp_path))
    yield NAME
    DatasetCatalog.remove(NAME)
    MetadataCatalog.remove(NAME)


@pytest.fixture
def loaded(registered):
    """As `registered`, with the id mapping in its metadata."""
    DatasetCatalog.get(registered)
    return registered


def feed(evaluator, predictions: dict[int, Instances]):
    evaluator.reset()
    for image_id, instances in predictions.items():
        evaluator.process([{"image_id": image_id}], [{"instances": instances}])
    return evaluator


def direct(content: dict, predictions: dict[int, Instances], max_dets=(1, 10, 100), img_ids=None) -> np.ndarray:
    """pycocotools, called as its own demo does: the precision table (IoU, recall, category, area, limit)."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    rows = []
    for image_id, instances in predictions.items():
        for box, score, label in zip(instances.pred_boxes, instances.scores, instances.pred_classes):
            x0, y0, x1, y1 = box.tolist()
            row = {"image_id": image_id, "category_id": IDS[label], "bbox": [x0, y0, x1 - x0, y1 - y0]}
            rows.append({**row, "score": score.item()})
    with contextlib.redirect_stdout(io.StringIO()):
        ground = COCO()
        ground.dataset = json.loads(json.dumps(content))
        ground.createIndex()
        evaluation = COCOeval(ground, ground.loadRes(rows), "bbox")
        evaluation.params.maxDets = list(max_dets)
        if img_ids is not None:
            evaluation.params.imgIds = img_ids
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation.eval["precision"]


def mean_percent(precision: np.ndarray) -> float:
    known = precision[precision > -1]
    return 100 * known.mean() if known.size else float("nan")


def expected_metrics(precision: np.ndarray) -> dict[str, float]:
    table = precision[..., -1]
    metrics = {
        "AP": table[:, :, :, 0],
        "AP50": table[0, :, :, 0],
        "AP75": table[5, :, :, 0],
        "APs": table[:, :, :, 1],
        "APm": table[:, :, :, 2],
        "APl": table[:, :, :, 3],
    }
    per_class = {f"AP-{name}": table[:, :, k, 0] for k, name in enumerate(NAMES)}
    return {name: mean_percent(part) for name, part in {**metrics, **per_class}.items()}


def test_the_metrics_are_pycocotools_for_ids_with_gaps(loaded, content):
    predictions = predict(content)
    results = feed(COCOEvaluator(loaded), predictions).evaluate()
    expected = expected_metrics(direct(content, predictions))
    assert list(results) == ["bbox"]
    assert list(results["bbox"])[:6] == ["AP", "AP50", "AP75", "APs", "APm", "APl"]
    assert results["bbox"] == pytest.approx(expected, abs=1e-9, nan_ok=True)
    assert 5 < expected["AP"] < 95  # neither trivial end


def test_perfect_predictions_get_a_hundred(loaded, content):
    rows = {image["id"]: [] for image in content["images"]}
    for annotation in content["annotations"]:
        x, y, w, h = annotation["bbox"]
        rows[annotation["image_id"]].append([x, y, x + w, y + h, 0.9, IDS.index(annotation["category_id"])])
    results = feed(COCOEvaluator(loaded), {image_id: as_instances(r) for image_id, r in rows.items()}).evaluate()
    assert all(value == pytest.approx(100) for value in results["bbox"].values())


@pytest.mark.fallback("detectron2")
def test_a_data_set_that_was_never_loaded_gives_the_same_numbers(registered, content):
    predictions = predict(content)
    results = feed(COCOEvaluator(registered), predictions).evaluate()
    assert results["bbox"] == pytest.approx(expected_metrics(direct(content, predictions)), nan_ok=True)


@pytest.mark.fallback("detectron2")
def test_evaluating_twice_gives_the_same_numbers(loaded, content, tmp_path):
    evaluator = feed(COCOEvaluator(loaded, output_dir=str(tmp_path)), predict(content))
    first = evaluator.evaluate()
    written = (tmp_path / "coco_instances_results.json").read_bytes()
    assert evaluator.evaluate()["bbox"] == pytest.approx(first["bbox"], nan_ok=True)
    assert (tmp_path / "coco_instances_results.json").read_bytes() == written


@pytest.mark.parametrize("limit", [15, 100])
def test_only_so_many_boxes_of_an_image_count(loaded, content, limit):
    predictions = predict(content, extra=40)
    results = feed(COCOEvaluator(loaded, max_dets_per_image=limit), predictions).evaluate()
    expected = expected_metrics(direct(content, predictions, max_dets=(1, 10, limit)))
    assert results["bbox"] == pytest.approx(expected, nan_ok=True)


@pytest.mark.fallback("detectron2")
@pytest.mark.parametrize("limit", [1, 2, 9, 10])
def test_a_limit_below_ten_is_applied_exactly(loaded, content, limit):
    predictions = predict(content, extra=20)
    results = feed(COCOEvaluator(loaded, max_dets_per_image=limit), predictions).evaluate()
    expected = expected_metrics(direct(content, predictions, max_dets=(limit,)))
    assert results["bbox"] == pytest.approx(expected, nan_ok=True)


def test_some_images_alone_can_be_judged(loaded, content):
    predictions = predict(content)
    chosen = [image["id"] for image in content["images"]][:4]
    results = feed(COCOEvaluator(loaded), predictions).evaluate(img_ids=chosen)
    assert results["bbox"] == pytest.approx(expected_metrics(direct(content, predictions, img_ids=chosen)), nan_ok=True)


def test_the_predictions_are_written_with_both_kinds_of_ids(loaded, content, tmp_path):
    predictions = predict(content)
    feed(COCOEvaluator(loaded, output_dir=str(tmp_path / "out")), predictions).evaluate()
    rows = json.loads((tmp_path / "out" / "coco_instances_results.json").read_text())
    labels = torch.cat([instances.pred_classes for instances in predictions.values()]).tolist()
    assert [row["category_id"] for row in rows] == [IDS[label] for label in labels]
    assert set(rows[0]) == {"image_id", "category_id", "bbox", "score"}
    assert (tmp_path / "out" / "instances_predictions.pth").exists()


@pytest.mark.fallback("detectron2")
def test_the_stored_predictions_keep_contiguous_ids_and_load_safely(loaded, content, tmp_path):
    predictions = predict(content)
    feed(COCOEvaluator(loaded, output_dir=str(tmp_path)), predictions).evaluate()
    stored = torch.load(tmp_path / "instances_predictions.pth", weights_only=True)
    assert [item["image_id"] for item in stored] == list(predictions)
    for item in stored:
        labels = predictions[item["image_id"]].pred_classes.tolist()
        assert [row["category_id"] for row in item["instances"]] == labels


def test_instances_become_coco_rows():
    instances = as_instances([[1, 2, 4, 8, 0.5, 2], [0, 0, 1, 1, 0.25, 0]])
    first = {"image_id": "a", "category_id": 2, "bbox": [1, 2, 3, 6], "score": 0.5}
    second = {"image_id": "a", "category_id": 0, "bbox": [0, 0, 1, 1], "score": 0.25}
    assert instances_to_coco_json(instances, "a") == [first, second]
    assert instances_to_coco_json(as_instances([]), 3) == []


def test_nothing_processed_is_no_result(loaded):
    assert feed(COCOEvaluator(loaded), {}).evaluate() == {}


def test_no_box_at_all_is_six_times_nan(loaded, content):
    results = feed(COCOEvaluator(loaded), {image["id"]: as_instances([]) for image in content["images"]}).evaluate()
    assert list(results["bbox"]) == ["AP", "AP50", "AP75", "APs", "APm", "APl"]
    assert all(math.isnan(value) for value in results["bbox"].values())


def test_a_json_without_annotations_only_gets_its_files(tmp_path, content):
    del content["annotations"]
    (tmp_path / "info.json").write_text(json.dumps(content))
    register_coco_instances(NAME, {}, str(tmp_path / "info.json"), str(tmp_path))
    try:
        DatasetCatalog.get(NAME)
        predictions = predict(truth())
        results = feed(COCOEvaluator(NAME, output_dir=str(tmp_path)), predictions).evaluate()
    finally:
        DatasetCatalog.remove(NAME)
        MetadataCatalog.remove(NAME)
    assert results == {}
    assert len(json.loads((tmp_path / "coco_instances_results.json").read_text())) > 10


@pytest.mark.parametrize("label, error", [(3, AssertionError), (-1, KeyError)])
@pytest.mark.fallback("detectron2")
def test_a_class_outside_the_range_is_told_the_range(loaded, label, error):
    evaluator = feed(COCOEvaluator(loaded), {10: as_instances([[0, 0, 5, 5, 0.5, label]])})
    with pytest.raises(error, match=r"0\.\.2"):
        evaluator.evaluate()


def test_an_unknown_task_is_refused(loaded, content):
    with pytest.raises(AssertionError):
        feed(COCOEvaluator(loaded, tasks=("caption",)), predict(content)).evaluate()


def test_one_class_has_no_per_class_entries(tmp_path, content):
    content["categories"] = content["categories"][:1]
    content["annotations"] = [a for a in content["annotations"] if a["category_id"] == 7]
    (tmp_path / "one.json").write_text(json.dumps(content))
    register_coco_instances(NAME, {}, str(tmp_path / "one.json"), str(tmp_path))
    try:
        DatasetCatalog.get(NAME)
        rows = as_instances([[0, 0, 50, 50, 0.5, 0]])
        assert len(feed(COCOEvaluator(NAME), {10: rows}).evaluate()["bbox"]) == 6
    finally:
        DatasetCatalog.remove(NAME)
        MetadataCatalog.remove(NAME)


def test_a_data_set_without_json_is_converted(tmp_path, content):
    from detectron2.structures import BoxMode

    records = [
        {**image, "image_id": image["id"], "annotations": []} for image in json.loads(json.dumps(content["images"]))
    ]
    for annotation in content["annotations"]:
        label = IDS.index(annotation["category_id"])
        entry = {**annotation, "category_id": label, "bbox_mode": BoxMode.XYWH_ABS}
        records[annotation["image_id"] - 10]["annotations"].append(entry)
    DatasetCatalog.register(NAME, lambda: records)
    MetadataCatalog.get(NAME).thing_classes = list(NAMES)
    try:
        with pytest.raises(ValueError):
            COCOEvaluator(NAME)
        predictions = predict(content)
        results = feed(COCOEvaluator(NAME, output_dir=str(tmp_path)), predictions).evaluate()
    finally:
        DatasetCatalog.remove(NAME)
        MetadataCatalog.remove(NAME)
    assert results["bbox"] == pytest.approx(expected_metrics(direct(content, predictions)), abs=1e-6, nan_ok=True)


@pytest.mark.fallback("detectron2")
def test_area_and_iscrowd_may_be_missing_in_the_json(tmp_path, content):
    content["annotations"] = [a for a in content["annotations"] if not a["iscrowd"]]
    slim = [{key: v for key, v in a.items() if key not in ("area", "iscrowd")} for a in content["annotations"]]
    (tmp_path / "slim.json").write_text(json.dumps({**content, "annotations": slim}))
    register_coco_instances(NAME, {}, str(tmp_path / "slim.json"), str(tmp_path))
    predictions = predict(content)
    try:
        results = feed(COCOEvaluator(NAME), predictions).evaluate()
    finally:
        DatasetCatalog.remove(NAME)
        MetadataCatalog.remove(NAME)
    assert results["bbox"] == pytest.approx(expected_metrics(direct(content, predictions)), nan_ok=True)


# The loop


class Recorder(DatasetEvaluator):
    def __init__(self, result=None):
        self.result = result
        self.seen = None

    def reset(self):
        self.seen = []

    def process(self, inputs, outputs):
        self.seen.append((inputs, outputs))

    def evaluate(self):
        return self.result


class Doubling(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        self.states = []

    def forward(self, inputs):
        self.states.append((self.training, torch.is_grad_enabled()))
        return [2 * value * self.weight for value in inputs]


def test_the_model_runs_in_evaluation_mode_without_gradients_and_returns_to_its_mode():
    for mode in (True, False):
        model, evaluator = Doubling().train(mode), Recorder({"task": {"m": 1.0}})
        assert inference_on_dataset(model, [[1.0, 2.0], [3.0]], evaluator) == {"task": {"m": 1.0}}
        assert model.states == [(False, False)] * 2 and model.training is mode
        assert [(inputs, [o.item() for o in outputs]) for inputs, outputs in evaluator.seen] == [
            ([1.0, 2.0], [2.0, 4.0]),
            ([3.0], [6.0]),
        ]


def test_a_function_is_a_model_and_no_evaluator_or_result_is_an_empty_dict():
    calls = []
    assert inference_on_dataset(lambda inputs: calls.append(inputs), [[1], [2]], None) == {}
    assert calls == [[1], [2]]
    assert inference_on_dataset(lambda inputs: inputs, [[1]], Recorder(None)) == {}


def test_several_evaluators_see_the_same_and_their_results_are_joined():
    recorders = [Recorder({"a": {"x": 1.0}}), Recorder(None), Recorder({"b": {"x": 2.0}})]
    results = inference_on_dataset(lambda inputs: inputs, [[1]], recorders)
    assert results == {"a": {"x": 1.0}, "b": {"x": 2.0}}
    assert all(recorder.seen == [([1], [1])] for recorder in recorders)
    with pytest.raises(AssertionError):
        DatasetEvaluators([Recorder({"a": {}}), Recorder({"a": {}})]).evaluate()


def test_callbacks_are_called_around_everything():
    calls = []
    callbacks = {
        name: lambda name=name: calls.append(name)
        for name in ("on_start", "before_inference", "after_inference", "on_end")
    }
    inference_on_dataset(lambda inputs: calls.append("model"), [[1], [2]], None, callbacks=callbacks)
    batch = ["before_inference", "model", "after_inference"]
    assert calls == ["on_start", *batch, *batch, "on_end"]


def test_the_context_restores_the_mode():
    model = Doubling().train()
    with inference_context(model):
        assert not model.training
    assert model.training


@pytest.mark.fallback("detectron2")
def test_the_context_restores_the_mode_after_an_exception():
    model = Doubling().train()
    with pytest.raises(RuntimeError), inference_context(model):
        raise RuntimeError
    assert model.training


@pytest.fixture
def log(caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("detectron2"), "propagate", True)
    caplog.set_level(logging.INFO)
    return caplog


@pytest.mark.parametrize("num_batches", [1, 2, 12])
def test_the_speed_is_logged(log, num_batches):
    inference_on_dataset(lambda inputs: inputs, [[1]] * num_batches, None)
    assert f"Start inference on {num_batches} batches" in log.text
    assert "Total inference time" in log.text and "pure compute time" in log.text


# Printing


def test_results_are_logged_as_three_lines_without_the_classes(log):
    print_csv_format({"bbox": {"AP": 12.34567, "AP50": float("nan"), "AP-ball": 3.0}, "loss": 0.5})
    lines = [record.getMessage() for record in log.records]
    assert lines == ["copypaste: Task: bbox", "copypaste: AP,AP50", "copypaste: 12.3457,nan", "copypaste: loss=0.5"]


def test_results_are_flattened_at_any_depth():
    nested = {"bbox": {"AP": 1, "deep": {"x": 2}}, "y": 3}
    assert flatten_results_dict(nested) == {"bbox/AP": 1, "bbox/deep/x": 2, "y": 3}
