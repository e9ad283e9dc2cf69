"""Whatever a JSON holds: one line that says what is wrong, or the right objects for detectron2 and pycocotools."""

import contextlib
import copy
import io
import json
import math
import tempfile
from collections import Counter
from pathlib import Path

import pytest
from coco_folder import CocoFolder
from detectron2.data import MetadataCatalog
from detectron2.data.datasets import load_coco_json
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from dinov2_detrex.data import DatasetError, check_coco_dataset, coco_dataset_dicts, read_source

NUMBERS_READ = "values read as the numbers that their text says"


def checked(coco, **options):
    coco.write()
    return check_coco_dataset(coco.json_file, coco.images, **options)


def error_of(coco, **options):
    coco.write()
    with pytest.raises(DatasetError) as caught:
        check_coco_dataset(coco.json_file, coco.images, **options).raise_if_harmful()
    assert str(caught.value).isprintable() and str(coco.json_file) in str(caught.value)
    return str(caught.value)


# ------------------------------------------------------------------------------------------------- types of values


@pytest.mark.parametrize("what", ["images", "annotations", "categories"])
@pytest.mark.parametrize("value", [None, {}, "text", 3])
def test_a_list_of_another_type_is_named(sound_coco, what, value):
    sound_coco.document[what] = value
    assert f"{what!r} is {value!r}, not a list" in error_of(sound_coco)


@pytest.mark.parametrize("what", ["images", "annotations", "categories"])
@pytest.mark.parametrize("entry", [None, 3, "text", []])
def test_an_entry_that_is_no_object_is_named(sound_coco, what, entry):
    sound_coco.document[what].append(entry)
    assert f"{what}[2] is {entry!r}, not an object with keys" in error_of(sound_coco)


@pytest.mark.parametrize(
    "what, key, value",
    [
        ("annotations", "image_id", [1]),
        ("annotations", "image_id", math.nan),
        ("annotations", "category_id", 10**400),
        ("annotations", "category_id", True),
        ("annotations", "iscrowd", "yes"),
        ("annotations", "iscrowd", 2),
        ("annotations", "ignore", {}),
        ("annotations", "area", math.nan),
        ("annotations", "area", "large"),
        ("annotations", "area", -1),
        ("annotations", "bbox", [1, 2, 10**400, 4]),
        ("annotations", "bbox", [1, 2, 3, True]),
        ("annotations", "segmentation", "text"),
        ("annotations", "segmentation", {"size": [40, 60], "counts": [3, 4]}),
        ("images", "id", [2]),
        ("images", "id", math.nan),
        ("images", "id", "second"),
        ("images", "file_name", 7),
        ("images", "height", "tall"),
        ("images", "height", 80.5),
        ("images", "width", 0),
        ("categories", "id", "dog"),
        ("categories", "name", []),
    ],
)
def test_a_value_of_another_type_is_named_with_file_entry_and_key(sound_coco, what, key, value):
    sound_coco.document[what][1][key] = value
    message = error_of(sound_coco)
    assert f": {key} " in message and " is not " in message and what.removesuffix("s").replace("ie", "y") in message


@pytest.mark.parametrize(
    "what, key", [("images", "id"), ("images", "file_name"), ("categories", "name"), ("annotations", "image_id")]
)
@pytest.mark.parametrize("lacking", ["absent", "null"])
def test_a_missing_value_is_named(sound_coco, what, key, lacking):
    entry = sound_coco.document[what][1]
    entry |= {key: None}
    if lacking == "absent":
        del entry[key]
    assert " has no " in error_of(sound_coco) and key in error_of(sound_coco)


def test_text_that_is_a_number_is_read_as_one_and_counted(sound_coco):
    sound = copy.deepcopy(sound_coco.document)
    for image in sound_coco.document["images"]:
        image |= {key: str(image[key]) for key in ("id", "width", "height")}
    for category in sound_coco.document["categories"]:
        category["id"] = f"{category['id']}.0"
    for annotation in sound_coco.document["annotations"]:
        annotation |= {key: str(annotation[key]) for key in ("image_id", "category_id", "area", "iscrowd")}
        annotation["bbox"] = [str(value) for value in annotation["bbox"]]
    report = checked(sound_coco)
    report.raise_if_harmful()
    assert report.harmless == {NUMBERS_READ: 6 + 2 + 10}
    assert report.repaired == {"info": {}} | sound
    assert read_source(sound_coco.json_file).classes == {1: "cat", 2: "dog"}


def test_ids_with_a_decimal_point_are_used_as_they_are(sound_coco):
    for annotation in sound_coco.document["annotations"]:
        annotation["category_id"] = float(annotation["category_id"])
    assert not checked(sound_coco).harmless


def test_images_may_have_names_for_ids(sound_coco):
    for entry, key in [(entry, "id") for entry in sound_coco.document["images"]] + [
        (entry, "image_id") for entry in sound_coco.document["annotations"]
    ]:
        entry[key] = f"img_{entry[key]}"
    report = checked(sound_coco)
    report.raise_if_harmful()
    assert not report.harmless
    sound_coco.document["annotations"][0]["image_id"] = 1
    assert "image_id 1 is not a text, as the images' ids are" in error_of(sound_coco)


def test_a_file_name_with_a_line_break_stays_one_line(sound_coco):
    sound_coco.document["images"][0]["file_name"] = "a\nb\ud800.jpg"
    assert r"a\nb\ud800.jpg is missing" in error_of(sound_coco)


# ---------------------------------------------------------------------------------------------- what repairs leave


def test_repairs_that_take_every_object_are_an_error(sound_coco):
    for annotation in sound_coco.document["annotations"]:
        annotation["image_id"] += 1000
    assert "0 of 2 objects are left: 2 annotations skipped whose image is not listed" in error_of(sound_coco)


def test_repairs_that_take_nearly_every_object_are_an_error_and_most_are_told_loudly(sound_coco):
    for count, left in ((4, "2 OF 6"), (40, "2 of 42")):
        del sound_coco.document["annotations"][2:]
        for _ in range(count):
            sound_coco.add_box([1, 1, 5, 5], image_id=99)
        report = checked(sound_coco)
        assert f"{left} objects are left".lower() in report.summary().lower() or left in " ".join(report.harmful)
        assert bool(report.harmful) == (count == 40)


def test_skipping_every_image_is_an_error(sound_coco):
    for path in sound_coco.images.iterdir():
        path.unlink()
    assert "0 of 2 images are left" in error_of(sound_coco, skip_bad_images=True)


# ------------------------------------------------------------------------------------------------ masks and classes

POLYGON = [3, 4, 33, 4, 33, 24]


def rle(compressed):
    mask = coco_mask.frPyObjects([POLYGON], 40, 60)[0]
    if compressed:
        return {"size": [40, 60], "counts": mask["counts"].decode()}
    flat, counts, value = coco_mask.decode(mask).flatten(order="F"), [0], 0
    for pixel in flat.tolist():
        if pixel != value:
            counts.append(0)
            value = pixel
        counts[-1] += 1
    return {"size": [40, 60], "counts": counts}


@pytest.mark.parametrize("segmentation", [[POLYGON], [[str(v) for v in POLYGON]], rle(True), rle(False)])
@pytest.mark.parametrize("bbox", ["absent", None, []])
def test_a_missing_box_is_made_of_the_segmentation(sound_coco, segmentation, bbox):
    sound_coco.add_box([0, 0, 1, 1], segmentation=segmentation)
    sound_coco.document["annotations"][2]["bbox"] = bbox
    if bbox == "absent":
        del sound_coco.document["annotations"][2]["bbox"]
    report = checked(sound_coco)
    report.raise_if_harmful()
    assert report.harmless["missing boxes made of the segmentation"] == 1
    assert report.repaired["annotations"][2]["bbox"] == pytest.approx([3, 4, 30, 20], abs=1.01)


def test_a_mask_of_another_size_than_the_image_gives_no_box(sound_coco):
    sound_coco.add_box([0, 0, 1, 1], image_id=2, segmentation=rle(True))
    del sound_coco.document["annotations"][2]["bbox"]
    assert "annotation 3 of image 2 (2.jpg): the RLE's size or counts do not fit" in error_of(sound_coco)


def test_polygons_that_are_none_are_left_out_beside_valid_ones(sound_coco):
    sound_coco.add_box([1, 1, 5, 5], segmentation=[POLYGON, 7, [1, 2, math.nan, 4, 5, 6]])
    report = checked(sound_coco)
    report.raise_if_harmful()
    assert report.repaired["annotations"][2]["segmentation"] == [POLYGON] and sum(report.harmless.values()) == 1


def test_classes_of_one_name_are_told_apart_by_their_ids(sound_coco):
    sound_coco.document["categories"][1]["name"] = "cat"
    report = checked(sound_coco)
    names = [entry["name"] for entry in report.repaired["categories"]]
    assert names == ["cat (id 1)", "cat (id 2)"] == list(read_source(sound_coco.json_file).classes.values())
    assert not checked(sound_coco, classes_from=sound_coco.json_file).harmful


def test_a_root_category_makes_no_class_unless_it_is_used(sound_coco):
    for entry in sound_coco.document["categories"]:
        entry["supercategory"] = "animals"
    sound_coco.document["categories"].insert(0, {"id": 0, "name": "animals", "supercategory": "none"})
    report = checked(sound_coco)
    report.raise_if_harmful()
    assert [entry["id"] for entry in report.repaired["categories"]] == [1, 2] and "'animals'" in report.summary()
    assert read_source(sound_coco.json_file).classes == {1: "cat", 2: "dog"}
    assert not checked(sound_coco, classes_from=sound_coco.json_file).harmful
    sound_coco.add_box([1, 1, 5, 5], category_id=0)
    assert len(checked(sound_coco).repaired["categories"]) == 3
    assert len(read_source(sound_coco.json_file).classes) == 3


# ----------------------------------------------------------------------------------------------------------- cache


@pytest.mark.parametrize("spoil", [lambda text: text[: len(text) // 2], lambda text: b'{"images": []}'])
def test_a_cached_copy_with_another_content_is_replaced(sound_coco, tmp_path, monkeypatch, spoil):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    sound_coco.add_box([5, 5, 0, 0])
    sound_coco.write()
    paths = str(sound_coco.json_file), str(sound_coco.images)
    expected = coco_dataset_dicts("cache_test", *paths, check=True)
    (copied,) = (tmp_path / "cache/dinov2_detrex/repaired").iterdir()
    text = copied.read_bytes()
    copied.write_bytes(spoil(text))
    sound_coco.json_file.touch()  # another version of the same content: checked again, the same copy is meant
    assert coco_dataset_dicts("cache_test", *paths, check=True) == expected and copied.read_bytes() == text


# ------------------------------------------------------------------------------------------------- any JSON at all

ANY_VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.just(10**400) | st.floats() | st.text(max_size=4)
    | st.sampled_from(["1", "2", " 3 ", "1.5", "nan", "1e3", "0", "-1", "1_0", "cat"]),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.sampled_from(["id", "size", "counts"]), inner),
    max_leaves=8,
)  # fmt: skip
KEYS = {
    "images": ["id", "file_name", "width", "height"],
    "annotations": ["id", "image_id", "category_id", "bbox", "area", "iscrowd", "ignore", "segmentation", "keypoints"],
    "categories": ["id", "name", "supercategory"],
}
PLACES = [(what, key) for what, keys in KEYS.items() for key in [*keys, None]] + [(what, "") for what in KEYS]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two images with three objects each, of which changes are made."""
    coco = CocoFolder(tmp_path_factory.mktemp("any"))
    for image_id in (1, 2):
        coco.add_image(image_id)
        for place in range(3):
            bbox = [5 + 10 * place, 4, 9.5, 20]
            coco.add_box(bbox, image_id, 1 + place % 2, segmentation=[[bbox[0], 4, bbox[0] + 9.5, 4, bbox[0], 24]])
    return coco


def changed(document, what, key, index, value):
    """The document with one value replaced: of a key, "" for a whole list, None for a whole entry."""
    document = copy.deepcopy(document)
    if key == "":
        document[what] = value
    elif key is None:
        document[what][index] = value
    else:
        document[what][index][key] = value
    return document


def objects(document):
    """How often there is which object: image, class, box."""
    images = {image["id"]: image["file_name"] for image in document["images"]}
    names = {category["id"]: category["name"] for category in document["categories"]}
    return Counter(
        (images[a["image_id"]], names[a["category_id"]], tuple(a["bbox"]))
        for a in document["annotations"]
        if not a.get("iscrowd")
    )


def average_precision(json_file):
    """pycocotools' AP of the truth as predictions."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(json_file)
        keys = ("image_id", "category_id", "bbox")
        found = truth.loadRes([{key: a[key] for key in keys} | {"score": 0.9} for a in truth.anns.values()])
        evaluation = COCOeval(truth, found, "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats[0]


@settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.sampled_from(PLACES), index=st.integers(0, 1), value=ANY_VALUE)
def test_any_value_anywhere_gives_one_line_or_the_right_objects(folder, place, index, value):
    document = changed(folder.document, *place, index, value)
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch, "any.json")
        file.write_text(json.dumps(document))
        try:
            report = check_coco_dataset(file, folder.images)
            report.raise_if_harmful()
        except DatasetError as error:
            assert str(error).isprintable() and str(file) in str(error)
            return
        file.write_text(json.dumps(report.repaired))
        MetadataCatalog.pop("coco_any", None)  # the example before may have had other names
        records = load_coco_json(file, folder.images, "coco_any")
        assert sum(len(record["annotations"]) for record in records) == len(report.repaired["annotations"])
        assert not report.objects.total or average_precision(str(file)) == pytest.approx(1.0)
    lost = objects(folder.document) - objects(report.repaired)
    new = objects(report.repaired) - objects(folder.document)
    if place[0] == "annotations" and place[1] and place[1] != "image_id":
        assert lost.total() <= 1 and new.total() <= 1  # of the changed entry alone
    assert not lost or report.harmless or objects(document) != objects(folder.document)
