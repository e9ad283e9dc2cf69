"""Box AP is pycocotools', table by table, whichever library computes it."""

import copy
import multiprocessing
import sys

import numpy as np
import pytest
from random_detections import by_pycocotools, random_case

from dinov2_detrex.evaluation import evaluate_boxes
from dinov2_detrex.evaluation.coco import COCOEvaluator

pytest.importorskip("hotcoco")


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
