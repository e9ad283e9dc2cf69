"""Presets change pictures and boxes together, the same for the same (seed, sample), and end when they are told to."""

import copy
import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from detectron2.structures import BoxMode
from PIL import Image
from pycocotools import mask as coco_mask

from dinov2_detrex.data import DetrDatasetMapper, TrainLoader, augmenting
from dinov2_detrex.data.augmenting import Picture
from dinov2_detrex.data.errors import DatasetError
from dinov2_detrex.data.masks import mask_in_box
from dinov2_detrex.runtime.seeding import seeded

COLOURS = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 0]])


def picture(seed, height=60, width=90):
    """Black, with two boxes in the colour of their class."""
    rng = np.random.default_rng(seed)
    pixels, boxes = np.zeros((height, width, 3), dtype=np.uint8), []
    classes = rng.integers(len(COLOURS), size=2)
    for label, left in zip(classes, (2, width // 2)):
        x, y, w, h = left + rng.integers(12), rng.integers(30), rng.integers(12, 28), rng.integers(12, 28)
        pixels[y : y + h, x : x + w] = COLOURS[label]
        boxes.append([x, y, x + w, y + h])
    return Picture(pixels, np.array(boxes, dtype=np.float64), classes)


def drawer():
    return lambda: picture(np.random.randint(1000), *np.random.randint(50, 100, 2))


def share_of_colour(pixels, box, label):
    x0, y0, x1, y1 = box.round().astype(int)
    inside = pixels[y0:y1, x0:x1].astype(int)
    return (np.abs(inside - COLOURS[label]).max(axis=-1) < 90).mean()


GEOMETRIC = {
    "mosaic": augmenting.mosaic,
    "copy-paste": augmenting.copy_paste,
    "large-scale jitter": augmenting.large_scale_jitter,
    "crop": augmenting._crop(),
    "rotation": augmenting._rotation(8.0),
}


def with_masks(drawn):
    """A mask for each box, of the pixels in its class's colour."""
    masks = np.zeros((len(drawn.boxes), *drawn.hw), np.uint8)
    for mask, (x0, y0, x1, y1) in zip(masks, drawn.boxes.astype(int)):
        mask[y0:y1, x0:x1] = 1
    return replace(drawn, masks=masks)


@pytest.mark.parametrize("name", [*GEOMETRIC, "mix-up"])
def test_masks_stay_on_their_objects(name):
    step, shares, insides = {**GEOMETRIC, "mix-up": augmenting.mix_up}[name], [], []
    for seed in range(30):
        with seeded(seed):
            plain = step(picture(seed), drawer())
        with seeded(seed):
            after = step(with_masks(picture(seed)), lambda: with_masks(drawer()()))
        assert np.array_equal(plain.pixels, after.pixels) and np.array_equal(plain.boxes, after.boxes)
        assert after.masks.shape == (len(after.boxes), *after.hw) and after.masks.dtype == np.uint8
        for mask, (x0, y0, x1, y1), label in zip(after.masks, after.boxes.round().astype(int), after.classes):
            assert mask.max(initial=0) <= 1
            if not mask.any():
                continue  # pasted over
            insides.append(mask[max(y0 - 1, 0) : y1 + 1, max(x0 - 1, 0) : x1 + 1].sum() / mask.sum())
            wrong = np.abs(after.pixels[mask > 0].astype(int) - COLOURS[label]).max(axis=-1)
            shares.append((wrong < (170 if name == "mix-up" else 90)).mean())
    assert len(shares) > 30 and np.mean(insides) > 0.99 and np.mean(shares) > 0.88


@pytest.mark.parametrize("name", GEOMETRIC)
def test_boxes_stay_on_their_objects(name):
    shares, changed = [], 0
    for seed in range(30):
        with seeded(seed):
            before = picture(seed)
            after = GEOMETRIC[name](before, drawer())
        changed += not np.array_equal(before.pixels, after.pixels)
        assert after.pixels.dtype == np.uint8 and len(after.boxes) == len(after.classes)
        height, width = after.hw
        assert (after.boxes >= 0).all() and (after.boxes <= [width, height] * 2).all()
        shares += [share_of_colour(after.pixels, *pair) for pair in zip(after.boxes, after.classes)]
    assert changed > 10 and len(shares) > 30
    assert np.mean(shares) > {"rotation": 0.7, "copy-paste": 0.8}.get(name, 0.9)


def test_a_mix_has_both_pictures_and_the_boxes_of_both():
    first, second = picture(1), picture(2)
    with seeded(0):
        mixed = augmenting.mix_up(first, lambda: second)
        share = None
    with seeded(0):
        share = np.random.beta(8.0, 8.0)
    assert mixed.boxes.tolist() == [*first.boxes.tolist(), *second.boxes.tolist()]
    np.testing.assert_allclose(
        mixed.pixels, share * first.pixels + (1 - share) * second.pixels.astype(float), atol=0.51
    )


def test_something_pasted_takes_its_pixels_from_the_masks_below():
    ground = with_masks(Picture(np.zeros((20, 20, 3), np.uint8), np.array([[0.0, 0, 20, 20]]), np.array([0])))
    for seed in range(5):
        with seeded(seed):
            after = augmenting.copy_paste(ground, lambda: with_masks(drawer()()), most=1)
        assert (after.masks.sum(axis=0) <= 1).all() and (len(after.masks) == 1 or after.masks.sum(axis=(1, 2)).all())


def test_a_cut_drops_boxes_of_which_too_little_is_left():
    wide = Picture(np.zeros((20, 40, 3), np.uint8), np.array([[0.0, 0, 10, 10], [2, 2, 30, 12]]), np.array([1, 2]))
    cut = wide.cut(5, 0, 40, 20)
    assert cut.boxes.tolist() == [[0, 0, 5, 10], [0, 2, 25, 12]]
    assert wide.cut(8, 0, 40, 20).classes.tolist() == [2]


@pytest.mark.parametrize("name", augmenting.PRESETS)
def test_a_preset_takes_any_picture_and_leaves_its_long_side(name):
    empty = Picture(np.full((40, 70, 3), 9, np.uint8), np.zeros((0, 4)), np.zeros(0, np.int64))
    for seed in range(25):
        with seeded(seed):
            other = empty if seed % 2 else picture(seed)
            for start in (picture(seed), empty):
                after = augmenting.apply(augmenting.preset(name), start, lambda other=other: other)
                assert max(after.hw) == max(start.hw) and min(after.hw) > 4 and after.boxes.shape[1] == 4
            for start in (with_masks(picture(seed)), with_masks(empty)):
                after = augmenting.apply(augmenting.preset(name), start, lambda other=other: with_masks(other))
                assert after.masks.shape == (len(after.boxes), *after.hw)


def test_a_pasted_object_with_a_mask_leaves_the_ground_around_it():
    ground = Picture(np.zeros((60, 90, 3), np.uint8), np.zeros((0, 4)), np.zeros(0, np.int64))
    triangle = [[10.0, 10, 30, 10, 10, 30]]
    white = np.full((60, 90, 3), 255, np.uint8)
    for outline, low, high in ((triangle, 0.4, 0.6), (None, 0.99, 1.0)):
        other = Picture(white, np.array([[10.0, 10, 30, 30]]), np.array([3]), outlines=[outline])
        with seeded(2):
            pasted = augmenting.copy_paste(ground, lambda other=other: other)
        x0, y0, x1, y1 = pasted.boxes[0].astype(int)
        assert pasted.classes.tolist() == [3] and low < (pasted.pixels[y0:y1, x0:x1] > 0).mean() <= high
        assert (pasted.pixels > 0).sum() == (pasted.pixels[y0:y1, x0:x1] > 0).sum()


def test_a_step_is_added_to_a_preset_or_left_out_of_it(records):
    off = {name: 0 for name in augmenting.PRESETS["strong"]}
    assert_same(batches(records, 3, preset="strong", step_probabilities=off), batches(records, 3))
    with seeded(0):
        (only,) = augmenting.preset("none", {"mosaic": 1.0})
        after = only(picture(1), drawer())
    with seeded(0):
        np.random.rand()
        assert np.array_equal(after.pixels, augmenting.mosaic(picture(1), drawer()).pixels)


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    folder, found = tmp_path_factory.mktemp("pictures"), []
    for i in range(6):
        drawn = picture(i)
        Image.fromarray(drawn.pixels).save(folder / f"{i}.png")
        pairs = zip(drawn.boxes.tolist(), drawn.classes.tolist())
        objects = [{"bbox": b, "bbox_mode": BoxMode.XYXY_ABS, "category_id": c, "iscrowd": 0} for b, c in pairs]
        found.append({"file_name": str(folder / f"{i}.png"), "height": 60, "width": 90, "annotations": objects})
    return found


def batches(records, count, start_iter=0, **mapper):
    loader = TrainLoader(
        records, mapper=DetrDatasetMapper([], None, **mapper), total_batch_size=2, aspect_ratio_grouping=False
    )
    source = iter(loader.batches(seed=5, start_iter=start_iter))
    return [next(source) for _ in range(count)]


def test_a_preset_gives_masks_where_they_are_asked_for(records):
    records = [copy.deepcopy(record) for record in records]
    for record in records:
        for annotation in record["annotations"]:
            x0, y0, x1, y1 = annotation["bbox"]
            annotation["segmentation"] = [[x0, y0, x1, y0, x1, y1, x0, y1]]
    plain = batches(records, 4, preset="strong")
    masked = batches(records, 4, preset="strong", mask_on=True, mask_format="bitmask")
    for one, other in zip([*itertools.chain(*plain)], [*itertools.chain(*masked)], strict=True):
        assert torch.equal(one["image"], other["image"])
        instances = other["instances"]
        ours, whole = ({*map(tuple, found.gt_boxes.tensor.tolist())} for found in (instances, one["instances"]))
        assert ours <= whole
        assert instances.gt_masks.tensor.shape == (len(instances), *instances.image_size)
        assert instances.gt_masks.tensor.flatten(1).any(dim=1).all()
    records[2]["annotations"][0]["segmentation"] = {"size": [3, 3], "counts": [9]}
    with pytest.raises(DatasetError, match="2.png: the object with the box .* no sound segmentation of 90 x 60 pixels"):
        batches(records, 4, preset="strong", mask_on=True, mask_format="bitmask")


def assert_same(one, other):
    for first, second in zip(one, other, strict=True):
        for a, b in zip(first, second, strict=True):
            assert torch.equal(a["image"], b["image"])
            assert torch.equal(a["instances"].gt_boxes.tensor, b["instances"].gt_boxes.tensor)


def test_a_resumed_run_sees_the_same_augmented_pictures(records):
    run = batches(records, 6, preset="strong")
    assert_same(run[2:], batches(records, 4, start_iter=2, preset="strong"))
    plain = batches(records, 6)
    images = [(a["image"], b["image"]) for x, y in zip(run, plain) for a, b in zip(x, y)]
    assert sum(not (a.shape == b.shape and torch.equal(a, b)) for a, b in images) > 6


def test_a_preset_ends_after_its_epochs_to_the_bit(records):
    run, plain = batches(records, 9, preset="strong", preset_epochs=2), batches(records, 9)
    assert_same(run[6:], plain[6:])  # 3 iterations an epoch
    with pytest.raises(AssertionError):
        assert_same(run[:6], plain[:6])


def test_channels_are_swapped_for_bgr(records):
    rgb, bgr = (batches(records, 4, preset="strong", img_format=order) for order in ("RGB", "BGR"))
    for one, other in zip(rgb, bgr):
        assert all(torch.equal(a["image"].flip(0), b["image"]) for a, b in zip(one, other))


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"preset": "strnog"}, "did you mean strong"),
        ({"preset": "light", "mask_on": True}, "mask_format=bitmask"),
        ({"preset": "light", "img_format": "L"}, "img_format=L"),
        ({"preset": "light", "is_train": False}, "is_train=False"),
        ({"step_probabilities": {"mosiac": 0.5}}, "no step 'mosiac'; the steps are copy_paste, mosaic"),
        ({"step_probabilities": {"mosaic": 1.5}}, "step_probabilities.mosaic=1.5 must be a number from 0 to 1"),
        ({"step_probabilities": {"mosaic": 0.5}, "mask_on": True}, "mask_format=bitmask"),
    ],
)
def test_a_preset_that_cannot_be_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        DetrDatasetMapper([], None, **arguments)


def test_a_mask_is_read_in_every_form_that_coco_has():
    on = np.zeros((6, 8), dtype=np.uint8)
    on[1:4, 2:5] = 1
    runs = [13, 3, 3, 3, 3, 3, 20]  # column by column: of 0 and 1 in turn
    compressed = coco_mask.encode(np.asfortranarray(on))
    forms = [[[2.0, 1, 5, 1, 5, 4, 2, 4]], {"size": [6, 8], "counts": runs}, compressed]
    for form in forms:
        assert mask_in_box(form, (6, 8), (1, 0, 6, 5)).tolist() == on[0:5, 1:6].tolist()
    for nothing in ([], [[1, 2]], {"size": [5, 8], "counts": runs}, "mask"):
        assert mask_in_box(nothing, (6, 8), (1, 0, 6, 5)) is None
    assert mask_in_box(compressed, (6, 8), (6, 0, 8, 6)) is None  # no pixel there
