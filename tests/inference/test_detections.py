"""Detections are chosen by threshold, class and number, and say the same in the forms of other programs."""

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances

from dinov2_detrex.inference import Classes, Detections, Selection
from dinov2_detrex.runtime.errors import UsageError

CLASSES = Classes(["newt", "gnu", "owl"], [0, 7, 40])
BOXES = [[10.0, 20.0, 30.0, 25.0], [0.0, 0.0, 5.0, 6.0], [1.0, 2.0, 3.0, 4.0], [7.0, 8.0, 19.0, 18.0]]


def instances(**more):
    return Instances(
        (50, 90),
        pred_boxes=Boxes(torch.tensor(BOXES)),
        scores=torch.tensor([0.5, 0.9, 0.2, 0.6]),
        pred_classes=torch.tensor([2, 0, 1, 2]),
        **more,
    )


def chosen(selection):
    return [round(float(score), 3) for score in selection.of(instances(), CLASSES.names).scores]


def test_selections_choose_by_score_class_and_number_the_best_first():
    assert chosen(Selection(0.0)) == [0.9, 0.6, 0.5, 0.2]
    assert chosen(Selection()) == [0.9, 0.6, 0.5]
    assert chosen(Selection(0.3, by_class={"owl": 0.55, "gnu": 0.1})) == [0.9, 0.6, 0.2]
    assert chosen(Selection(0.0, classes=["owl", "gnu"])) == [0.6, 0.5, 0.2]
    assert chosen(Selection(0.0, classes=["owl", "gnu"], top_k=2)) == [0.6, 0.5]
    assert chosen(Selection(1.0)) == []
    assert chosen(Selection(0.2, by_class={"owl": 0.2}, classes=["newt"])) == [0.9]


@pytest.mark.parametrize(
    "wrong, words",
    [
        (lambda: Selection(1.5), "from 0 to 1, not 1.5"),
        (lambda: Selection(by_class={"owl": "a"}), "from 0 to 1, not 'a'"),
        (lambda: Selection(top_k=0), "top_k=0"),
        (lambda: chosen(Selection(classes=["gnus"])), "'gnus' is none of the detector's classes; did you mean gnu?"),
        (lambda: chosen(Selection(by_class={"zebra": 0.1})), "'zebra' is none of.*there are newt, gnu, owl"),
    ],
)
def test_selections_that_cannot_be_are_one_line(wrong, words):
    with pytest.raises(UsageError, match=words):
        wrong()


def test_detections_are_a_sequence_of_coco_results():
    found = Detections(instances(), CLASSES, "a.jpg")
    first = {"category_id": 40, "category_name": "owl", "score": 0.5, "bbox": [10.0, 20.0, 20.0, 5.0]}
    assert found[0] == first and list(found)[0] == first and len(found) == 4
    assert found[:1] == [first] and isinstance(found[:1], Detections)
    assert found.to_coco(image_id=3)[0] == {"image_id": 3, **first}
    assert found != found[:3] and found == list(found) and found.image_hw == (50, 90)


def test_followed_objects_have_numbers_and_new_ones_none():
    found = Detections(instances(track_ids=torch.tensor([4, -1, 5, 6])), CLASSES)
    assert [row["track_id"] for row in found] == [4, None, 5, 6]


def test_pandas_gets_a_row_for_each_object():
    pytest.importorskip("pandas", reason="the extra pandas")
    table = Detections(instances(), CLASSES, "a.jpg").to_pandas()
    assert list(table.columns) == ["source", "category_name", "category_id", "score", "x0", "y0", "x1", "y1"]
    np.testing.assert_array_equal(table[["x0", "y0", "x1", "y1"]].to_numpy(), BOXES)
    assert list(table.category_name) == ["owl", "newt", "gnu", "owl"] and set(table.source) == {"a.jpg"}
    assert len(Detections(instances()[:0], CLASSES).to_pandas()) == 0


def test_supervision_gets_boxes_names_and_masks():
    supervision = pytest.importorskip("supervision", reason="the extra supervision")
    masks = torch.zeros(4, 50, 90, dtype=torch.bool)
    masks[0, 20:25, 10:30] = True
    found = Detections(instances(pred_masks=masks), CLASSES).to_supervision()
    assert isinstance(found, supervision.Detections)
    np.testing.assert_array_equal(found.xyxy, BOXES)
    np.testing.assert_array_equal(found.mask, masks.numpy())
    assert list(found.data["class_name"]) == ["owl", "newt", "gnu", "owl"] and list(found.class_id) == [2, 0, 1, 2]
    assert len(Detections(instances()[:0], CLASSES).to_supervision()) == 0
