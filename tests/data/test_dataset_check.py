"""The check before training: the harmful is one error with file and id, the harmless is repaired and counted."""

import contextlib
import io
import json
import math

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from dinov2_detrex.data import DatasetError, check_coco_dataset


def checked(coco, **options):
    coco.write()
    return check_coco_dataset(coco.json_file, coco.images, **options)


def the_one_error(report):
    assert len(report.harmful) == 1, report.harmful
    with pytest.raises(DatasetError) as caught:
        report.raise_if_harmful()
    assert "\n" not in str(caught.value) and report.json_file in str(caught.value)
    return str(caught.value)


def test_a_sound_data_set_passes_unchanged(sound_coco):
    report = checked(sound_coco)
    report.raise_if_harmful()
    assert not report.harmless and not report.notes
    assert {"info": {}} | sound_coco.document == report.repaired
    assert report.summary() == f"{sound_coco.json_file}: 2 images, 2 annotations; nothing to complain of"


# ------------------------------------------------------------------------------------------------------- harmful


def test_a_missing_image_is_named(sound_coco):
    path = sound_coco.add_image(7, save=False)
    message = the_one_error(checked(sound_coco))
    assert "image 7" in message and f"{path} is missing" in message


@pytest.mark.parametrize("name", ["half.jpg", "half.png"])
def test_a_truncated_image_is_named(sound_coco, name):
    path = sound_coco.add_image(7, name, width=200, height=150)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    message = the_one_error(checked(sound_coco))
    assert "image 7" in message and str(path) in message and "truncated" in message


def test_a_file_that_is_no_image_is_named(sound_coco):
    path = sound_coco.add_image(7)
    path.write_text("no picture")
    assert str(path) in the_one_error(checked(sound_coco))


def test_an_empty_file_is_named(sound_coco):
    path = sound_coco.add_image(7)
    path.write_bytes(b"")
    assert str(path) in the_one_error(checked(sound_coco))


def test_data_behind_the_end_of_a_jpeg_is_accepted(sound_coco):
    """Some cameras append a film or a preview."""
    path = sound_coco.add_image(7)
    path.write_bytes(path.read_bytes() + bytes(20_000))
    checked(sound_coco).raise_if_harmful()


def test_another_size_than_the_json_says_is_named(sound_coco):
    path = sound_coco.add_image(7, width=60, height=40)
    sound_coco.document["images"][-1] |= {"width": 120, "height": 80}
    message = the_one_error(checked(sound_coco))
    assert f"image 7: {path} is 60 x 40, the annotations say 120 x 80" in message and "EXIF" not in message


def test_a_json_with_the_size_before_exif_rotation_is_told_so(sound_coco):
    path = sound_coco.add_image(7, width=60, height=40)
    from PIL import Image

    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(path) as picture:
        picture.save(path, exif=exif)
    message = the_one_error(checked(sound_coco))
    assert "is 40 x 60, the annotations say 60 x 40" in message and "EXIF" in message


def test_bad_images_are_skipped_and_counted_when_asked(sound_coco):
    sound_coco.add_image(7, save=False)
    sound_coco.add_box([1, 2, 3, 4], image_id=7)
    report = checked(sound_coco, skip_bad_images=True)
    report.raise_if_harmful()
    assert sum(report.harmless.values()) == 1
    assert [image["id"] for image in report.repaired["images"]] == [1, 2]
    assert [annotation["image_id"] for annotation in report.repaired["annotations"]] == [1, 2]


@pytest.mark.parametrize("bbox", [[1, 2, math.nan, 4], [1, 2, math.inf, 4], [1, 2, 3], ["a", 1, 2, 3], None, []])
def test_a_box_that_is_no_four_numbers_is_named(sound_coco, bbox):
    sound_coco.add_box([0, 0, 1, 1], image_id=2, id=33)
    sound_coco.document["annotations"][-1]["bbox"] = bbox
    message = the_one_error(checked(sound_coco))
    assert "annotation 33 of image 2 (2.jpg)" in message and str(bbox) in message


def random_boxes(coco, convert, count=30, seed=0):
    """Boxes anywhere in image 1 (60 x 40), written in another format."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        (x0, x1), (y0, y1) = np.sort(rng.uniform(0, 60, 2)), np.sort(rng.uniform(0, 40, 2))
        coco.add_box([float(value) for value in convert(x0, y0, x1 - x0, y1 - y0)])


@pytest.mark.parametrize(
    "name, convert",
    [
        ("XYXY", lambda x, y, w, h: (x, y, x + w, y + h)),
        ("CXCYWH", lambda x, y, w, h: (x + w / 2, y + h / 2, w, h)),
        ("relative", lambda x, y, w, h: (x / 60, y / 40, w / 60, h / 40)),
    ],
)
def test_another_box_format_is_recognised(coco, name, convert):
    coco.add_image(1)
    random_boxes(coco, convert)
    message = the_one_error(checked(coco))
    assert name in message and "annotation" in message and "1.jpg" in message


@pytest.mark.parametrize("seed", range(5))
def test_xywh_boxes_are_not_suspected(coco, seed):
    coco.add_image(1)
    random_boxes(coco, lambda *xywh: xywh, seed=seed)
    report = checked(coco)
    report.raise_if_harmful()
    assert not report.harmless


def test_a_few_boxes_beyond_the_border_are_not_taken_for_another_format(coco):
    coco.add_image(1)
    random_boxes(coco, lambda *xywh: xywh)
    for _ in range(3):
        coco.add_box([30, 20, 45, 30])
    report = checked(coco)
    report.raise_if_harmful()
    assert report.harmless == {"boxes clipped to their image": 3}


@pytest.mark.parametrize(
    "fitting_both, fitting_xywh, leaving",
    [(27, 0, 3), (14, 6, 6)],
    ids=["too few leave their image", "some do not fit as XYXY"],
)
def test_another_format_is_not_suspected_without_good_evidence(coco, fitting_both, fitting_xywh, leaving):
    coco.add_image(1)
    for bbox, count in ([2, 2, 30, 20], fitting_both), ([40, 5, 10, 10], fitting_xywh), ([30, 20, 45, 30], leaving):
        for _ in range(count):
            coco.add_box(bbox)
    report = checked(coco)
    report.raise_if_harmful()
    assert report.harmless == {"boxes clipped to their image": leaving}


def test_unknown_category_ids_are_counted_and_named(sound_coco):
    sound_coco.add_box([1, 1, 5, 5], category_id=9, id=41)
    sound_coco.add_box([1, 1, 5, 5], category_id=9, id=42)
    message = the_one_error(checked(sound_coco))
    assert "category id 9 of 2 annotations is unknown" in message and "annotation 41 of image 1" in message


@pytest.mark.parametrize("what", ["images", "categories"])
def test_duplicate_ids_are_named(sound_coco, what):
    entry = sound_coco.document[what][-1]
    sound_coco.document[what].append(dict(entry, name="other"))
    assert "id 2 occurs more than once" in the_one_error(checked(sound_coco))


def test_no_categories_is_an_error(sound_coco):
    sound_coco.document |= {"categories": [], "annotations": []}
    assert "categories is empty" in the_one_error(checked(sound_coco))


@pytest.mark.parametrize("key", ["id", "file_name"])
def test_an_image_entry_without_a_needed_key_is_shown(sound_coco, key):
    sound_coco.add_image(8)
    del sound_coco.document["images"][-1][key]
    assert "has no id or no file_name" in the_one_error(checked(sound_coco))


@pytest.mark.parametrize("content", ["{", "[]", '{"images": []}', '{"images": {}, "categories": []}'])
def test_a_file_that_is_not_coco_is_refused_by_name(coco, content):
    coco.json_file.write_text(content)
    with pytest.raises(DatasetError, match="train.json"):
        check_coco_dataset(coco.json_file, coco.images)


def test_many_findings_are_one_short_error(sound_coco):
    for image_id in range(10, 30):
        sound_coco.add_image(image_id, save=False)
    with pytest.raises(DatasetError, match="and 17 more") as caught:
        checked(sound_coco).raise_if_harmful()
    assert "image 10:" in str(caught.value) and "\n" not in str(caught.value)


# ------------------------------------------------------------------------------------------------------ harmless


@pytest.mark.parametrize(
    "bbox, what",
    [
        ([5, 5, 0, 10], "without area"),
        ([5, 5, 10, 0], "without area"),
        ([15, 5, -10, 10], "without area"),
        ([60, 5, 10, 10], "outside"),
        ([-20, 5, 20, 10], "outside"),
        ([5, 500, 10, 10], "outside"),
    ],
)
def test_useless_boxes_are_skipped_and_counted(sound_coco, bbox, what):
    sound_coco.add_box(bbox)
    report = checked(sound_coco)
    report.raise_if_harmful()
    assert len(report.harmless) == 1 and what in str(report.harmless) and "1 boxes" in report.summary()
    assert report.repaired["annotations"] == sound_coco.document["annotations"][:2]


def test_boxes_beyond_the_border_are_clipped(sound_coco):
    sound_coco.add_box([-10, 30, 40, 20])
    report = checked(sound_coco)
    assert report.harmless == {"boxes clipped to their image": 1}
    assert report.repaired["annotations"][-1]["bbox"] == [0, 30, 30, 10]


def test_rounding_at_the_border_is_left_alone(sound_coco):
    sound_coco.add_box([0, 0, 60.6, 40.4])
    report = checked(sound_coco)
    assert not report.harmless and report.repaired["annotations"][-1]["bbox"] == [0, 0, 60.6, 40.4]


def test_annotations_of_unlisted_images_are_skipped(sound_coco):
    sound_coco.add_box([1, 1, 5, 5], image_id=99)
    report = checked(sound_coco)
    assert sum(report.harmless.values()) == 1 and len(report.repaired["annotations"]) == 2


@pytest.mark.parametrize("ids", [[0, 1], [5, 5], [None, 3], ["a", "b"]])
def test_annotation_ids_that_will_not_do_are_numbered_anew(sound_coco, ids):
    for annotation, value in zip(sound_coco.document["annotations"], ids):
        annotation["id"] = value
    report = checked(sound_coco)
    report.raise_if_harmful()
    assert [annotation["id"] for annotation in report.repaired["annotations"]] == [1, 2]


def test_missing_sizes_areas_and_crowd_flags_are_filled_in(sound_coco):
    for image in sound_coco.document["images"]:
        del image["width"], image["height"]
    for annotation in sound_coco.document["annotations"]:
        del annotation["area"], annotation["iscrowd"]
    report = checked(sound_coco)
    report.raise_if_harmful()
    assert [(image["width"], image["height"]) for image in report.repaired["images"]] == [(60, 40), (50, 80)]
    assert [annotation["area"] for annotation in report.repaired["annotations"]] == [200, 30 * 40.25]
    assert [annotation["iscrowd"] for annotation in report.repaired["annotations"]] == [0, 0]


def test_ignored_objects_become_crowds(sound_coco):
    sound_coco.add_box([1, 1, 5, 5], ignore=1)
    report = checked(sound_coco)
    assert report.harmless == {"ignored objects taken for crowds": 1}
    assert report.repaired["annotations"][-1]["iscrowd"] == 1 and not report.repaired["annotations"][-1]["ignore"]


def test_a_box_survives_a_segmentation_that_is_no_polygon(sound_coco):
    sound_coco.add_box([1, 1, 5, 5], segmentation=[[1, 1, 6, 6]])
    report = checked(sound_coco)
    assert report.harmless == {"segmentations without a valid polygon removed": 1}
    assert report.repaired["annotations"][-1]["segmentation"] == []


def perfect_ap50(json_file):
    """pycocotools' AP50 of predictions equal to the ground truth."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(json_file)
        keys = ("image_id", "category_id", "bbox")
        found = truth.loadRes([{key: a[key] for key in keys} | {"score": 0.9} for a in truth.anns.values()])
        evaluation = COCOeval(truth, found, "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats[1]


def test_perfect_predictions_get_full_marks_after_the_repair_alone(sound_coco):
    """Annotation ids from 0 cost a match in pycocotools, which takes a match with id 0 for none."""
    for annotation in sound_coco.document["annotations"]:
        annotation["id"] -= 1
    report = checked(sound_coco)
    assert perfect_ap50(sound_coco.json_file) == pytest.approx(0.5)
    sound_coco.json_file.write_text(json.dumps(report.repaired))
    assert perfect_ap50(sound_coco.json_file) == pytest.approx(1.0)


# ---------------------------------------------------------------------------------------------------------- noted


def test_categories_without_boxes_are_noted(sound_coco):
    sound_coco.document["categories"].append({"id": 5, "name": "unicorn"})
    report = checked(sound_coco)
    report.raise_if_harmful()
    assert not report.harmless and "1 of 3 categories without boxes (unicorn)" in report.summary()


def test_crowds_and_images_without_objects_are_ordinary(sound_coco):
    sound_coco.add_image(3)
    sound_coco.add_box([0, 0, 50, 30], iscrowd=1, segmentation={"size": [40, 60], "counts": [0, 2400]})
    report = checked(sound_coco)
    report.raise_if_harmful()
    assert not report.harmless and not report.notes


def test_a_test_file_without_annotations_passes(sound_coco):
    del sound_coco.document["annotations"]
    report = checked(sound_coco)
    report.raise_if_harmful()
    assert not report.harmless and not report.notes


def test_errors_in_images_do_not_hide_errors_in_boxes(sound_coco):
    sound_coco.add_image(7, save=False)
    sound_coco.add_box([1, 1, math.nan, 1])
    assert len(checked(sound_coco).harmful) == 2
