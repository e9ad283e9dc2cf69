"""Matches, curves and thresholds are COCO's: pycocotools' own matches, and a plain count at every threshold."""

import contextlib
import copy
import io

import numpy as np
import pytest
from random_detections import random_case

from dinov2_detrex.analysis.report.curves import best_thresholds, operating_points, threshold_curve
from dinov2_detrex.analysis.report.judged import judge
from dinov2_detrex.runtime.errors import UserError

CASES = pytest.mark.parametrize(
    "options",
    [{}, {"ties": False}, {"crowds": 0.6}, {"crowds": 1.0}, {"per_image": 400}],
    ids=["ties", "no ties", "many crowds", "crowds alone", "more than 100 boxes"],
)


def matches_of_pycocotools(truth, results):
    """{(image, category): [(score, annotation id or 0, ignored), ...]} at IoU 0.5, all areas."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        ground = COCO()
        ground.dataset = copy.deepcopy(truth)
        ground.createIndex()
        evaluation = COCOeval(ground, ground.loadRes(copy.deepcopy(results)), "bbox")
        evaluation.params.iouThrs, evaluation.params.areaRng = np.array([0.5]), [[0, 1e10]]
        evaluation.evaluate()
    return {
        (one["image_id"], one["category_id"]): [
            (score, int(match), bool(ignored))
            for score, match, ignored in zip(one["dtScores"], one["dtMatches"][0], one["dtIgnore"][0])
        ]
        for one in evaluation.evalImgs
        if one is not None and one["dtScores"]
    }


def matches_of(truth, judged):
    ids = [a["id"] for a in sorted(truth["annotations"], key=lambda a: a["image_id"])]
    found = {}
    for row in range(len(judged.detections)):
        image = judged.images[judged.detections.image[row]]["id"]
        category = judged.category_ids[judged.detections.kind[row]]
        match = ids[judged.match[row]] if judged.match[row] >= 0 else 0
        entry = (judged.detections.score[row], match, bool(judged.ignored[row]))
        found.setdefault((image, category), []).append(entry)
    return found


@CASES
def test_each_detection_finds_the_object_that_pycocotools_gives_it(options):
    for seed in range(4):
        truth, results = random_case(seed, **options)
        crowds = {a["id"] for a in truth["annotations"] if a["iscrowd"]}
        expected = {
            key: [(score, 0 if match in crowds else match, ignored) for score, match, ignored in rows]
            for key, rows in matches_of_pycocotools(truth, results).items()
        }
        assert matches_of(truth, judge(truth, results)) == expected


def test_of_two_objects_alike_the_one_is_found_that_pycocotools_finds():
    truth, results = random_case(2, crowds=0.0)
    again = [a | {"id": a["id"] + 1000} for a in truth["annotations"]]
    truth = truth | {"annotations": truth["annotations"] + again}
    found = matches_of(truth, judge(truth, results))
    assert found == matches_of_pycocotools(truth, results)
    assert any(match > 1000 for rows in found.values() for _, match, _ in rows)


def counted(judged, class_index, threshold):
    """(right, wrong) at a threshold, one by one."""
    right = wrong = 0
    for row in range(len(judged.detections)):
        if judged.detections.kind[row] != class_index or judged.detections.score[row] < threshold:
            continue
        right += judged.match[row] >= 0
        wrong += judged.match[row] < 0 and not judged.ignored[row]
    return right, wrong


@CASES
def test_precision_recall_and_f1_are_those_of_a_plain_count_at_every_threshold(options):
    truth, results = random_case(3, **options)
    judged = judge(truth, results[:300])
    for index, category in enumerate(judged.category_ids):
        objects = sum(a["category_id"] == category and not a["iscrowd"] for a in truth["annotations"])
        curve = threshold_curve(judged, index)
        assert curve.num_objects == objects and (np.diff(curve.thresholds) < 0).all()
        for i, threshold in enumerate(curve.thresholds):
            right, wrong = counted(judged, index, threshold)
            assert (curve.right[i], curve.wrong[i]) == (right, wrong)
            assert curve.precision[i] == (right / (right + wrong) if right + wrong else 0)
            assert curve.recall[i] == (right / objects if objects else 0)
            total = 2 * right + wrong + (objects - right)
            assert curve.f1[i] == pytest.approx(2 * right / total if total else 0)


def test_no_threshold_has_a_better_f1_than_the_best_one():
    truth, results = random_case(5)
    judged = judge(truth, results)
    thresholds = best_thresholds(judged)
    assert set(thresholds["by_class"]) == {"class 3", "class 7", "class 12"}  # 90 never occurs
    points = operating_points(judged, np.array([thresholds["by_class"].get(n, 0.5) for n in judged.class_names]))
    for index, name in enumerate(judged.class_names[:3]):
        right, wrong = counted(judged, index, thresholds["by_class"][name])
        assert (points[index]["right"], points[index]["wrong"]) == (right, wrong)
        objects = judged.num_objects[index]
        assert points[index]["missed"] == objects - right
        tried = [counted(judged, index, t) for t in np.unique(judged.detections.score)]
        assert points[index]["f1"] == pytest.approx(max(2 * r / (r + w + objects) for r, w in tried))


def test_detections_that_cannot_be_of_the_data_are_refused_and_unknown_classes_do_not_count():
    truth, results = random_case(1)
    with pytest.raises(UserError, match="'elsewhere', which is none"):
        judge(truth, [results[0] | {"image_id": "elsewhere"}])
    assert len(judge(truth, [results[0] | {"category_id": 1234}]).detections) == 0


@pytest.mark.parametrize("empty", ["detections", "objects", "both"])
def test_nothing_to_judge_is_judged(empty):
    truth, results = random_case(1)
    truth = truth if empty == "detections" else truth | {"annotations": []}
    judged = judge(truth, results if empty == "objects" else [])
    assert not judged.found.any() and "default" not in best_thresholds(judged)
    assert [point["right"] for point in operating_points(judged, np.full(4, 0.5))] == [0, 0, 0, 0]
