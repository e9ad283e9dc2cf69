"""Pictures show what they are said to show wherever a box lies; a file that cannot be read costs its own alone."""

from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from dinov2_detrex.analysis.report.error_kinds import find_errors
from dinov2_detrex.analysis.report.judged import judge
from dinov2_detrex.analysis.report.pictures import SIDE_PX, draw_suspects, draw_worst, worst_images
from dinov2_detrex.analysis.report.suspects import find_suspects

THRESHOLDS = np.array([0.3])


def judged_at(box, image_folder, width=90, height=60):
    """A detection at a place where nothing is labelled, and an object far off, in an image of one grey."""
    Image.new("RGB", (width, height), (120, 120, 120)).save(image_folder / "a.png")
    truth = {"images": [{"id": 1, "file_name": "a.png"}], "categories": [{"id": 1, "name": "newt"}]}
    truth["annotations"] = [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1000, 1000, 5, 5]}]
    return judge(truth, [{"image_id": 1, "category_id": 1, "bbox": box, "score": 0.9}])


@pytest.mark.parametrize("box", [[10, 10, 20, 20], [0, 0, 90, 60], [85, 55, 20, 20], [-9, -9, 12, 12], [40, 30, 0, 0]])
def test_the_surroundings_of_a_box_lie_within_the_image_wherever_it_is(box, tmp_path):
    judged = judged_at(box, tmp_path)
    (pair,) = draw_suspects(judged, find_suspects(judged, find_errors(judged), THRESHOLDS), tmp_path)
    truth, detected = (Image.open(BytesIO(one.png)).convert("RGB") for one in (pair.truth, pair.detected))
    assert truth.size == detected.size and max(truth.size) == SIDE_PX
    assert {colour for _, colour in truth.getcolors()} == {(120, 120, 120)}  # the object is elsewhere
    assert len(detected.getcolors()) > 1
    assert pair.caption == "a.png: detected is newt (0.90), labelled is nothing"


def test_a_file_that_cannot_be_read_has_no_picture(tmp_path):
    judged = judged_at([10, 10, 20, 20], tmp_path)
    worst = worst_images(judged, THRESHOLDS)
    assert [(one.wrong, one.missed) for one in worst] == [(1, 1)]
    assert len(draw_worst(judged, THRESHOLDS, worst, tmp_path)) == 1
    (tmp_path / "a.png").write_text("no image")
    assert draw_worst(judged, THRESHOLDS, worst, tmp_path) == []
