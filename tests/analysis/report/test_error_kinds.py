"""Kinds of errors follow TIDE's definitions, one by one, and what each costs is pycocotools' AP50 of mended data."""

import copy
from collections import Counter

import numpy as np
import pytest
from random_detections import by_pycocotools, plain_iou, random_case

from dinov2_detrex.analysis.report.error_kinds import KINDS, find_errors
from dinov2_detrex.analysis.report.judged import judge
from dinov2_detrex.evaluation import evaluate_boxes

SEEDS = range(6)


def plain_kind(judged, row):
    """The kind of one wrong detection, by the definitions."""
    image, kind, box = (getattr(judged.detections, name)[row] for name in ("image", "kind", "xywh"))
    own, other = 0.0, 0.0
    for i in range(len(judged.objects)):
        if judged.objects.image[i] == image and not judged.objects.crowd[i]:
            overlap = plain_iou(box, judged.objects.xywh[i])
            if judged.objects.kind[i] == kind:
                own = max(own, overlap)
            else:
                other = max(other, overlap)
    if 0.1 <= own < 0.5:
        return "box"
    if other >= 0.5:
        return "class"
    if own >= 0.5:
        return "duplicate"
    return "background" if max(own, other) < 0.1 else "both"


@pytest.mark.parametrize("crowds", [0.0, 0.3])
def test_every_wrong_detection_has_the_kind_of_its_definition(crowds):
    seen = Counter()
    for seed in SEEDS:
        judged = judge(*random_case(seed, crowds=crowds, confused=0.5))
        errors = find_errors(judged)
        for row in range(len(judged.detections)):
            wrong = judged.match[row] < 0 and not judged.ignored[row]
            assert errors.kind[row] == (plain_kind(judged, row) if wrong else "")
        touched = set(judged.match[judged.found]) | set(errors.target[errors.target >= 0])
        assert set(np.flatnonzero(errors.missed)) == set(np.flatnonzero(~judged.objects.crowd)) - touched
        seen.update(errors.counts())
    assert min(seen[kind] for kind in KINDS) > 0, seen


def mended(truth, judged, errors, kind):
    """(truth, results) in which the errors of one kind are put right."""
    objects = sorted(truth["annotations"], key=lambda a: a["image_id"])
    free = set(range(len(objects))) - set(judged.match[judged.found])
    gone = {objects[i]["id"] for i in np.flatnonzero(errors.missed)} if kind == "missed" else set()
    results = []
    for row in np.argsort(-judged.detections.score, kind="stable"):
        at = judged.detections
        entry = {"image_id": judged.images[at.image[row]]["id"], "score": float(at.score[row])}
        entry |= {"category_id": judged.category_ids[at.kind[row]], "bbox": at.xywh[row].tolist()}
        if errors.kind[row] == kind:
            target = errors.target[row]
            if target not in free:
                continue
            free.remove(target)
            entry |= {"category_id": objects[target]["category_id"], "bbox": objects[target]["bbox"]}
        results.append(entry)
    left = [a for a in truth["annotations"] if a["id"] not in gone]
    return {**copy.deepcopy(truth), "annotations": left}, results


def ap50(truth, results):
    table = by_pycocotools(truth, results)[0]["precision"][0, :, :, 0, -1]
    return 100 * table[table > -1].mean()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("crowds", [0.0, 0.3])
def test_what_a_kind_costs_is_pycocotools_ap50_of_mended_detections(kind, crowds):
    for seed in SEEDS:
        truth, results = random_case(seed, ties=False, crowds=crowds, confused=0.5)
        judged = judge(truth, results)
        errors = find_errors(judged)
        assert errors.ap50 == pytest.approx(ap50(truth, results), abs=1e-9)
        after = ap50(*mended(truth, judged, errors, kind))
        assert errors.cost[kind] == pytest.approx(after - errors.ap50, abs=1e-9), seed


@pytest.mark.parametrize("crowds", [0.0, 0.3, 1.0])
def test_ap50_is_cocos_with_ties_and_crowds_too(crowds):
    for seed in SEEDS:
        truth, results = random_case(seed, crowds=crowds)
        expected = evaluate_boxes(truth, results).ap(0.5)
        assert find_errors(judge(truth, results)).ap50 == pytest.approx(expected, abs=1e-9, nan_ok=True)


def test_counts_and_costs_of_most_kinds_are_those_of_hotcoco():
    hotcoco = pytest.importorskip("hotcoco")
    truth, results = random_case(2, ties=False, crowds=0.0, confused=0.5)
    ground = hotcoco.COCO(copy.deepcopy(truth))
    evaluation = hotcoco.COCOeval(ground, ground.load_res(copy.deepcopy(results)), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    theirs = evaluation.tide_errors()
    errors = find_errors(judge(truth, results))
    names = {"box": "Loc", "class": "Cls", "duplicate": "Dupe", "background": "Bkg", "both": "Both", "missed": "Miss"}
    assert errors.counts() == {kind: theirs["counts"][names[kind]] for kind in KINDS}


@pytest.mark.parametrize("empty", ["detections", "objects"])
def test_nothing_to_find_or_nothing_found_has_no_numbers_or_all_missed(empty):
    truth, results = random_case(1, crowds=0.0)
    if empty == "objects":
        errors = find_errors(judge(truth | {"annotations": []}, results))
        assert np.isnan(errors.ap50) and set(errors.kind) == {"background"}
    else:
        errors = find_errors(judge(truth, []))
        assert errors.ap50 == 0 and errors.counts()["missed"] == len(truth["annotations"])
