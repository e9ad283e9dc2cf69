"""The generated clutter data set: as hard as it says, with true boxes, and the same bytes for the same seed."""

import json

import numpy as np
import pytest
from PIL import Image, ImageDraw

from dinov2_detrex.data import clutter, generate_clutter
from dinov2_detrex.data.outlines import FIGURES

SMALL = dict(num_train=4, num_val=2, seed=3)


def scenes(count, image_hw=(140, 110)):
    return [clutter._compose(np.random.default_rng([0, i]), image_hw) for i in range(count)]


def test_same_arguments_give_the_same_bytes_and_other_seeds_other_pictures(tmp_path):
    first, again = (generate_clutter(tmp_path / name, **SMALL) for name in ("first", "again"))
    other = generate_clutter(tmp_path / "other", **SMALL | {"seed": 4})
    for path in (p for p in first.rglob("*") if p.is_file()):
        assert (again / path.relative_to(first)).read_bytes() == path.read_bytes()
    assert (other / "train/000000.jpg").read_bytes() != (first / "train/000000.jpg").read_bytes()
    document = json.loads((first / "annotations/instances_train.json").read_text())
    assert [category["name"] for category in document["categories"]] == list(clutter.CLASS_NAMES)
    for image in document["images"]:
        with Image.open(first / "train" / image["file_name"]) as picture:
            assert picture.size == (image["width"], image["height"])


def seen_plainly(scene):
    """Painted back to front in whole pixels, each thing with its own number; XYXY of what is left of each object."""
    height, width = scene.taken.shape
    canvas = Image.new("I", (4 * width, 4 * height))
    for number, thing in reversed(list(enumerate(scene.things, start=1))):
        mask = Image.new("1", canvas.size)
        for fill, outline in zip((1, 0), thing.figure):
            ImageDraw.Draw(mask).polygon((outline * 4).ravel().tolist(), fill=fill)
        canvas.paste(number, mask=mask)
    pixels = np.asarray(canvas)
    for number, thing in enumerate(scene.things, start=1):
        if thing.category is not None:
            rows, columns = np.nonzero(pixels == number)
            yield np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]) / 4, len(rows) / 16


def test_boxes_and_areas_are_those_of_what_is_visible():
    errors = []
    for scene in scenes(4):
        for item, (box, area) in zip(scene.objects, seen_plainly(scene), strict=True):
            errors.append(np.abs(item["box"] - box))
            assert item["area"] == pytest.approx(area, rel=0.25, abs=8)
    assert np.max(errors) < 3 and np.mean(errors) < 0.7  # in pixels; slivers are worst


def test_it_is_hard_in_the_ways_it_says():
    found = scenes(100)
    objects = [item for scene in found for item in scene.objects]
    sides = np.array([max(item["box"][2:] - item["box"][:2]) for item in objects])
    assert len(clutter.CLASS_NAMES) >= 10 and sides.min() < 9 and sides.max() > 45 and np.median(sides) < 20
    shares = np.bincount([item["category"] for item in objects], minlength=12) / len(objects)
    assert shares[0] > 5 * shares[-1] > 0
    counts = np.array([len(scene.objects) for scene in found])
    assert counts.max() > 14 and 5 < counts.mean() < 12  # crowds
    whole = [thing for scene in found for thing in scene.things if thing.category is not None]
    full = np.array([clutter.coverage(t.figure, np.array([0, 0, 110, 140])).sum() for t in whole])
    assert np.mean([item["area"] for item in objects] < 0.8 * full) > 0.1  # hidden by others
    assert all(any(thing.category is None for thing in scene.things) for scene in found)


def test_no_figure_is_another_one_turned_a_little():
    window = np.array([-32, -32, 32, 32])
    masks = {}
    for name, figure in FIGURES.items():
        turned = [clutter._placed(figure, 60, np.radians(angle), np.zeros(2)) for angle in (-20, -10, 0, 10, 20)]
        masks[name] = [clutter.coverage(one, window) > 0.5 for one in turned]
    for name, own in masks.items():
        for other in masks.keys() - {name}:
            best = max((own[2] & mask).sum() / (own[2] | mask).sum() for mask in masks[other])
            assert best < 0.85, (name, other, best)


@pytest.mark.parametrize("wrong", [{"image_size": 40}, {"num_val": 0}])
def test_wrong_arguments_are_named(tmp_path, wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        generate_clutter(tmp_path / "clutter", **SMALL | wrong)
    assert list(tmp_path.iterdir()) == []
