"""Drawings: colours that are told apart, labels beside each other, sizes that suit the picture."""

import itertools

import numpy as np
import pytest
from PIL import Image

from dinov2_detrex.visualization.colours import class_colour, oklab, text_colour
from dinov2_detrex.visualization.drawing import draw_objects, enlargement, pen_for, place_labels

JUST_NOTICEABLE = 0.02  # a distance in Oklab


def test_eighty_classes_have_colours_that_are_told_apart():
    lab = oklab(np.array([class_colour(i) for i in range(80)]))
    distances = np.linalg.norm(lab[:, None] - lab[None], axis=2)[~np.eye(80, dtype=bool)]
    assert distances.min() > 3 * JUST_NOTICEABLE
    first = np.linalg.norm(lab[:10, None] - lab[None, :10], axis=2)[~np.eye(10, dtype=bool)]
    assert first.min() > 8 * JUST_NOTICEABLE
    assert class_colour(5 + 128) == class_colour(5)


def test_oklab_is_that_of_its_definition():
    np.testing.assert_allclose(oklab(np.array([255, 255, 255])), [1, 0, 0], atol=1e-3)
    np.testing.assert_allclose(oklab(np.array([255, 0, 0])), [0.628, 0.2249, 0.1258], atol=1e-3)


def test_text_stands_out_on_every_colour():
    def luminance(rgb):
        values = np.array(rgb) / 255
        return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4) @ [0.2126, 0.7152, 0.0722]

    for index in range(128):
        light, dark = sorted(
            (luminance(class_colour(index)), luminance(text_colour(class_colour(index)))), reverse=True
        )
        assert (light + 0.05) / (dark + 0.05) > 4.5


def shared(one, other):
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return max(width, 0) * max(height, 0)


@pytest.mark.parametrize("image_hw", [(400, 600), (300, 4000)])
def test_labels_lie_in_the_picture_and_over_no_other_where_there_is_room(image_hw):
    generator = np.random.default_rng(0)
    low = generator.uniform(0, 0.9, (12, 2)) * [image_hw[1], image_hw[0]]
    boxes = np.hstack([low, low + generator.uniform(5, 60, (12, 2))])
    boxes[1] = boxes[0]
    places = place_labels([(60, 14)] * 12, boxes, image_hw)
    for x0, y0, x1, y1 in places:
        assert 0 <= x0 < x1 <= image_hw[1] and 0 <= y0 < y1 <= image_hw[0] and (x1 - x0, y1 - y0) == (60, 14)
    assert sum(shared(one, other) for one, other in itertools.combinations(places, 2)) == 0


def test_a_label_alone_stands_above_its_box_or_inside_the_picture():
    assert place_labels([(30, 10)], np.array([[20, 40, 90, 80]]), (100, 100)) == [(20, 30, 50, 40)]
    ((x0, y0, x1, y1),) = place_labels([(30, 10)], np.array([[0, 0, 100, 100]]), (100, 100))
    assert (x0, y0, x1, y1) == (0, 0, 30, 10)
    ((x0, y0, _, _),) = place_labels([(300, 10)], np.array([[5, 40, 9, 80]]), (100, 100))
    assert x0 == 0


@pytest.mark.parametrize("side_px, factor", [(64, 7), (399, 2), (400, 1), (8000, 1)])
def test_small_pictures_are_enlarged_and_boxes_lie_where_the_objects_are(side_px, factor):
    image = Image.new("RGB", (side_px, side_px // 2))
    box = np.array([[side_px // 4, side_px // 8, side_px // 2, side_px // 4]])
    drawn = np.asarray(draw_objects(image, box, [3], [""]))
    assert enlargement((side_px // 2, side_px)) == factor and drawn.shape[:2] == (
        side_px // 2 * factor,
        side_px * factor,
    )
    rows, columns = np.nonzero((drawn == class_colour(3)).all(axis=2))
    x0, _, x1, y1 = box[0] * factor
    assert (columns.min(), columns.max(), rows.max()) == (x0, x1, y1)


def test_text_grows_with_the_picture_and_shrinks_with_its_objects():
    one = np.array([[0, 0, 2000.0, 2000.0]])
    assert pen_for((480, 640), one).font_px < pen_for((4000, 4000), one).font_px < pen_for((8000, 8000), one).font_px
    small = np.array([[0, 0, 30.0, 40.0]] * 50)
    assert pen_for((4000, 4000), small).font_px < pen_for((4000, 4000), one).font_px
    assert pen_for((64, 64), np.zeros((0, 4))).font_px >= 11


def test_masks_colour_their_object_and_nothing_else():
    mask = np.zeros((1, 500, 600), dtype=bool)
    mask[0, 100:200, 100:300] = True
    image = Image.new("RGB", (600, 500), (100, 100, 100))
    drawn = np.asarray(draw_objects(image, np.array([[100, 100, 300, 200]]), [0], [""], mask))
    assert (drawn[150, 200] == np.round(0.55 * 100 + 0.45 * np.array(class_colour(0)))).all()
    assert (drawn[400, 500] == 100).all() and (np.asarray(image) == 100).all()
