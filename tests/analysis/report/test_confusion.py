"""The confusion matrix, the suspects and the worst images are those of a plain second count."""

import numpy as np
import pytest
from random_detections import plain_iou, random_case

from dinov2_detrex.analysis.report.confusion import confusion_matrix, largest_confusions
from dinov2_detrex.analysis.report.error_kinds import find_errors
from dinov2_detrex.analysis.report.judged import judge
from dinov2_detrex.analysis.report.pictures import worst_images
from dinov2_detrex.analysis.report.suspects import find_suspects

THRESHOLDS = np.array([0.3, 0.5, 0.0, 0.2])


def plainly(judged, thresholds):
    """(matrix, {image: (wrong, missed)}) with dicts and loops."""
    d, o = judged.detections, judged.objects
    background = len(judged.class_names)
    matrix = np.zeros((background + 1, background + 1), dtype=int)
    by_image = {i: [0, 0] for i in range(len(judged.images))}
    for image in by_image:
        rows = [r for r in range(len(d)) if d.image[r] == image and d.score[r] >= thresholds[d.kind[r]]]
        rows = sorted((r for r in rows if not judged.ignored[r]), key=lambda r: -d.score[r])
        open_objects = {i for i in range(len(o)) if o.image[i] == image and not o.crowd[i]}
        left = []
        for row in rows:
            if judged.match[row] >= 0:
                matrix[d.kind[row], d.kind[row]] += 1
                open_objects.remove(judged.match[row])
            else:
                left.append(row)
        for row in left:
            overlaps = {i: plain_iou(d.xywh[row], o.xywh[i]) for i in sorted(open_objects)}
            best = max(overlaps, key=overlaps.get, default=None)
            truth = background
            if best is not None and overlaps[best] >= 0.5:
                truth = o.kind[best]
                open_objects.remove(best)
            matrix[truth, d.kind[row]] += 1
            by_image[image][0] += 1
        for i in open_objects:
            matrix[o.kind[i], background] += 1
            by_image[image][1] += 1
    return matrix, by_image


@pytest.mark.parametrize("crowds", [0.0, 0.4])
def test_matrix_and_worst_images_are_a_plain_count(crowds):
    confused = 0
    for seed in range(6):
        judged = judge(*random_case(seed, crowds=crowds, confused=0.5))
        matrix = confusion_matrix(judged, THRESHOLDS)
        expected, by_image = plainly(judged, THRESHOLDS)
        np.testing.assert_array_equal(matrix, expected)
        confused += sum(pair["count"] for pair in largest_confusions(matrix, judged.class_names))
        worst = worst_images(judged, THRESHOLDS, count=100)
        assert {one.image: [one.wrong, one.missed] for one in worst} == {i: n for i, n in by_image.items() if sum(n)}
        totals = [one.wrong + one.missed for one in worst]
        assert totals == sorted(totals, reverse=True)
        np.testing.assert_array_equal(matrix[:-1].sum(axis=1), judged.num_objects)  # each object once
    assert confused > 0


def case(detections, objects):
    """Of one image and the classes a, b: [(class, box, score)], [(class, box)]."""
    categories = [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}]
    truth = {"images": [{"id": 1, "file_name": "x.png"}], "categories": categories}
    truth["annotations"] = [
        {"id": i + 1, "image_id": 1, "category_id": c, "bbox": box} for i, (c, box) in enumerate(objects)
    ]
    results = [{"image_id": 1, "category_id": c, "bbox": box, "score": score} for c, box, score in detections]
    return judge(truth, results)


@pytest.mark.parametrize(
    "detections, expected",
    [
        ([(2, [0, 0, 10, 10], 0.9)], [("class", 0, 0)]),  # b where a is labelled
        ([(2, [0, 0, 10, 10], 0.9), (1, [0, 0, 10, 10], 0.8)], []),  # a was found there
        ([(2, [0, 0, 10, 10], 0.9), (1, [0, 0, 10, 10], 0.1)], [("class", 0, 0)]),  # but below its threshold
        ([(1, [50, 50, 10, 10], 0.7)], [("missing", 0, -1)]),
        ([(1, [0, 0, 10, 4], 0.7)], [("box", 0, 0)]),
        ([(1, [50, 50, 10, 10], 0.4)], []),  # not confident
    ],
)
def test_suspected_are_confident_contradictions_alone(detections, expected):
    judged = case(detections, [(1, [0, 0, 10, 10])])
    suspects = find_suspects(judged, find_errors(judged), np.array([0.3, 0.3]))
    rows = [tuple(getattr(one, name) for name in ("what", "detection", "object")) for one in suspects]
    scores = [judged.detections.score[row] for _, row, _ in rows]
    assert [(what, at) for what, _, at in rows] == [(what, at) for what, _, at in expected]
    assert scores == [detections[row][2] for _, row, _ in expected]
