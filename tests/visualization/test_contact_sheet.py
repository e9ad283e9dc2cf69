"""The contact sheet: the right boxes, in the right half, for every form that predictions come in."""

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, BoxMode, Instances
from PIL import Image

from dinov2_detrex.data import contact_sheet
from dinov2_detrex.visualization import sheets
from dinov2_detrex.visualization.colours import class_colour

TILE = 100  # the pictures are 50 x 40, so the scale is 2
TRUTH, FOUND = [10, 10, 20, 15], [25, 20, 40, 35]  # XYWH and XYXY


@pytest.fixture
def records(tmp_path):
    """Three black pictures with ids 5, 6, 7; the first has a box of class 1."""
    made = []
    for image_id in (5, 6, 7):
        path = tmp_path / f"{image_id}.png"
        Image.new("RGB", (50, 40)).save(path)
        made.append({"file_name": str(path), "height": 40, "width": 50, "image_id": image_id, "annotations": []})
    made[0]["annotations"] = [{"bbox": TRUTH, "bbox_mode": BoxMode.XYWH_ABS, "category_id": 1}]
    return made


def instances(scores=(0.9,), classes=(0,)):
    boxes = Boxes(torch.tensor([FOUND] * len(scores), dtype=torch.float32).reshape(-1, 4))
    return Instances((40, 50), pred_boxes=boxes, scores=torch.tensor(scores), pred_classes=torch.tensor(classes))


def coco_result(category_id, image_id=5, score=0.9):
    x0, y0, x1, y1 = FOUND
    return {"image_id": image_id, "category_id": category_id, "bbox": [x0, y0, x1 - x0, y1 - y0], "score": score}


def tiles(path, count=6, columns=6):
    """The pictures of a sheet, in reading order."""
    sheet = np.asarray(Image.open(path).convert("RGB"))
    corners = [(6 + 20 + (i // columns) * 126, 6 + (i % columns) * 106) for i in range(count)]
    return [sheet[y : y + 80, x : x + 100] for y, x in corners]


def painted(picture):
    """(x0, y0, x1, y1) of the outline of a box below its label, and its colour; None where all is black."""
    if not picture.any():
        return None
    rows = np.flatnonzero((picture.sum(axis=2) > 0).sum(axis=1))
    bottom = rows.max()
    columns = np.flatnonzero(picture[bottom].sum(axis=1))
    return columns.min(), columns.max(), bottom, tuple(picture[bottom, columns[0]].tolist())


@pytest.mark.parametrize(
    "predictions",
    [
        [coco_result(category_id=1)],
        {5: instances()},
        [instances(), instances((), ()), instances((), ())],
        [{"instances": instances()}, {"instances": instances((), ())}, {"instances": instances((), ())}],
    ],
    ids=["coco results", "by image id", "in order", "model outputs"],
)
def test_truth_is_left_and_predictions_right(records, tmp_path, predictions):
    path = contact_sheet(records, predictions, ["cat", "dog"], tmp_path / "deep" / "sheet.png", tile_px=TILE)
    truth, found, *others = tiles(path)
    assert painted(truth) == (20, 60, 50, class_colour(1))
    assert painted(found) == (50, 80, 70, class_colour(0))
    assert [painted(other) for other in others] == [None] * 4


def test_category_ids_are_the_data_sets_own_when_names_come_by_id(records, tmp_path):
    found = contact_sheet(
        records, [coco_result(category_id=30)], {30: "dog", 7: "cat"}, tmp_path / "s.png", tile_px=TILE
    )
    assert painted(tiles(found)[1])[-1] == class_colour(1)


def test_labels_are_the_names_of_their_classes(records, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(sheets, "draw_boxes", lambda picture, b, c, labels: drawn.append(labels) or picture)
    records[0]["annotations"].append(records[0]["annotations"][0] | {"category_id": 0, "iscrowd": 1})
    found = [coco_result(category_id=30), coco_result(category_id=7, score=0.95)]
    contact_sheet(records[:1], found, {30: "dog", 7: "cat"}, tmp_path / "s.png")
    assert drawn == [["cat 0.95", "dog 0.90"], ["dog", "cat (crowd)"]]


def test_a_category_id_without_a_name_is_an_error(records, tmp_path):
    with pytest.raises(ValueError, match="category id 0"):
        contact_sheet(records, [coco_result(category_id=0)], ["cat", "dog"], tmp_path / "s.png")


def test_weak_predictions_are_not_drawn(records, tmp_path):
    arguments = (records, [coco_result(1, score=0.29)], ["cat", "dog"], tmp_path / "s.png")
    assert painted(tiles(contact_sheet(*arguments, tile_px=TILE))[1]) is None
    assert painted(tiles(contact_sheet(*arguments, tile_px=TILE, score_threshold=0.28))[1]) is not None


def test_columns_and_the_number_of_images_are_kept(records, tmp_path):
    arguments = (records * 3, [], ["cat", "dog"], tmp_path / "s.png")
    assert Image.open(contact_sheet(*arguments, tile_px=TILE, columns=2)).size == (4 * 106 + 6, 5 * 126 + 6)
    assert Image.open(contact_sheet(*arguments, tile_px=TILE, max_images=1)).size == (2 * 106 + 6, 126 + 6)


def test_predictions_that_do_not_fit_the_records_are_an_error(records, tmp_path):
    with pytest.raises(ValueError, match="1 predictions for 3 records"):
        contact_sheet(records, [instances()], ["cat", "dog"], tmp_path / "s.png")
    with pytest.raises(ValueError, match="at least one record"):
        contact_sheet([], [], ["cat", "dog"], tmp_path / "s.png")
