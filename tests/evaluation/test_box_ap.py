"""Box AP is pycocotools', table by table, whichever library computes it."""

import contextlib
import copy
import io
import multiprocessing
import sys

import numpy as np
import pytest

from dinov2_detrex.evaluation import evaluate_boxes
from dinov2_detrex.evaluation.coco import COCOEvaluator

pytest.importorskip("hotcoco")
CATEGORIES = [{"id": number, "name": f"class {number}"} for number in (3, 7, 12, 90)]  # the last one never occurs


def random_case(seed: int, crowds: float = 0.1, ties: bool = True, per_image: int = 12) -> tuple[dict, list[dict]]:
    """A truth and detections: images without objects, without detections and without both; objects of all sizes."""
    rng = np.random.default_rng(seed)
    images = [{"id": int(number)} for number in rng.permutation(1000)[:25]]
    annotations, results = [], []
    for image in images:
        for _ in range(rng.integers(0, 8)):
            w, h = np.exp(rng.uniform(1, 5.5, 2)).round(1)
            x, y = rng.uniform(0, 300, 2).round(1)
            entry = {"image_id": image["id"], "category_id": int(rng.choice([3, 7, 12])), "bbox": [x, y, w, h]}
            more = {"id": len(annotations) + 1, "area": w * h * 0.8, "iscrowd": int(rng.random() < crowds)}
            annotations.append(entry | more)
            for _ in range(rng.integers(0, 3)):
                moved = [float(v) for v in (x + rng.normal(0, 0.1 * w), y + rng.normal(0, 0.1 * h), w, h)]
                results.append(entry | {"bbox": moved, "score": float(rng.random())})
        for _ in range(rng.integers(0, per_image)):
            box = [float(v) for v in (*rng.uniform(0, 300, 2), *np.exp(rng.uniform(1, 5.5, 2)))]
            category = int(rng.choice([3, 7, 12]))
            results.append({"image_id": image["id"], "category_id": category, "bbox": box, "score": rng.random()})
    if ties:
        results = [row | {"score": round(row["score"], 1)} for row in results]
    return {"info": {}, "images": images, "annotations": annotations, "categories": CATEGORIES}, results


def by_pycocotools(truth: dict, results: list[dict], max_dets=(1, 10, 100), img_ids=None):
    """As its own demo calls it, with its printed lines."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        ground = COCO()
        ground.dataset = copy.deepcopy(truth)
        ground.createIndex()
        evaluation = COCOeval(ground, ground.loadRes(copy.deepcopy(results)), "bbox")
        evaluation.params.maxDets = list(max_dets)
        if img_ids is not None:
            evaluation.params.imgIds = img_ids
        evaluation.evaluate()
        evaluation.accumulate()
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        if list(max_dets) == [1, 10, 100]:
            evaluation.summarize()
    return evaluation.eval, printed.getvalue().rstrip("\n")


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize(
    "options",
    [{}, {"ties": False}, {"crowds": 0.6}, {"per_image": 400}, {"crowds": 1.0}],
    ids=["ties", "no ties", "many crowds", "more than 100 boxes", "crowds alone"],
)
def test_every_table_is_pycocotools_to_the_last_bits(options, fast):
    for seed in range(4):
        truth, results = random_case(seed, **options)
        judged = evaluate_boxes(truth, results, fast=fast)
        expected, printed = by_pycocotools(truth, results)
        np.testing.assert_allclose(judged.precision, expected["precision"][..., -1], rtol=0, atol=1e-15)
        np.testing.assert_allclose(judged.recall, expected["recall"], rtol=0, atol=1e-15)
        assert judged.summary() == printed


@pytest.mark.parametrize("limit, limits", [(3, (1, 3)), (300, (1, 10, 300))])
def test_other_limits_and_some_images_alone_are_pycocotools_too(limit, limits):
    truth, results = random_case(7, per_image=400)
    chosen = [image["id"] for image in truth["images"]][:11]
    judged = evaluate_boxes(truth, results, max_dets=limit, img_ids=chosen)
    expected, _ = by_pycocotools(truth, results, limits, chosen)
    np.testing.assert_allclose(judged.precision, expected["precision"][..., -1], rtol=0, atol=1e-15)
    assert judged.summary().count("maxDets") == 6


def test_ids_that_are_names_are_evaluated_as_well():
    truth, results = random_case(1)
    named = {**truth, "images": [{"id": f"{image['id']:05d}"} for image in truth["images"]]}
    named["annotations"] = [{**a, "image_id": f"{a['image_id']:05d}"} for a in truth["annotations"]]
    rows = [row | {"image_id": f"{row['image_id']:05d}"} for row in results]
    assert evaluate_boxes(named, rows).metrics() == evaluate_boxes(truth, results).metrics()


def test_results_and_truth_stay_as_they_are():
    truth, results = random_case(2)
    before = copy.deepcopy((truth, results))
    for fast in (True, False):
        evaluate_boxes(truth, results, fast=fast)
    assert (truth, results) == before


def test_recipes_name_the_evaluator_that_is_the_same_with_every_engine():
    from dinov2_detrex.config import get_config

    for name in ("common/data/coco_detr.py", "common/data/shapes.py"):
        assert get_config(name).dataloader.evaluator["_target_"] in (
            COCOEvaluator,
            "dinov2_detrex.evaluation.COCOEvaluator",
            "dinov2_detrex.evaluation.coco.COCOEvaluator",
        )


@pytest.mark.skipif(sys.platform != "linux", reason="forks a process that has threads")
def test_a_forked_child_of_a_process_that_evaluated_gets_the_same_numbers():
    truth, results = random_case(5)
    here = evaluate_boxes(truth, results).precision  # from here on there are threads, which the child has not
    with multiprocessing.get_context("fork").Pool(1) as pool:
        there = pool.apply_async(_precision, (truth, results)).get(timeout=120)
    assert np.array_equal(here, there)


def _precision(truth: dict, results: list[dict]) -> np.ndarray:
    return evaluate_boxes(truth, results).precision
