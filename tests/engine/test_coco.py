"""What becomes of a COCO-format JSON: records, class ids, warnings, errors, and the way back."""

import json
import logging
import os

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import convert_to_coco_json, load_coco_json, register_coco_instances
from detectron2.structures import BoxMode
from engine.small_coco import box_annotation, coco_content, write_coco

LOGGER = "detectron2.data.datasets.coco"


@pytest.fixture
def name():
    """A data set name that leaves the catalogs when the test is over."""
    yield "test_small_set"
    if "test_small_set" in DatasetCatalog.list():
        DatasetCatalog.remove("test_small_set")
    if "test_small_set" in MetadataCatalog.list():
        MetadataCatalog.remove("test_small_set")


@pytest.fixture
def content():
    return coco_content()


@pytest.fixture
def log(caplog):
    """The text of the loader's log lines; its loggers may have been cut off from the root."""
    logger = logging.getLogger("detectron2")
    propagate, logger.propagate = logger.propagate, True
    caplog.set_level(logging.INFO, logger=LOGGER)
    yield caplog
    logger.propagate = propagate


def load(tmp_path, content, name=None, **options):
    return load_coco_json(write_coco(tmp_path, content), str(tmp_path), name, **options)


def test_records_come_by_ascending_image_id_with_their_annotations(tmp_path, content, name):
    records = load(tmp_path, content, name)
    assert [record["image_id"] for record in records] == [1, 4, 7, 10, 13]
    assert [len(record["annotations"]) for record in records] == [0, 1, 2, 0, 1]
    assert list(records[1]) == ["file_name", "height", "width", "image_id", "annotations"]
    assert records[1]["file_name"] == os.path.join(tmp_path, "1.png")
    assert (records[1]["height"], records[1]["width"]) == (50, 30)
    assert records[1]["annotations"][0] == {
        "iscrowd": 0,
        "bbox": [2, 3.5, 10, 12],
        "category_id": 0,
        "bbox_mode": BoxMode.XYWH_ABS,
    }
    assert records[4]["annotations"][0]["iscrowd"] == 1


def test_an_absolute_file_name_wins_over_the_folder(tmp_path, content):
    path = write_coco(tmp_path, content)
    content["images"][0]["file_name"] = "/elsewhere/a.png"
    (tmp_path / "instances.json").write_text(json.dumps(content))
    assert load_coco_json(path, str(tmp_path))[-1]["file_name"] == "/elsewhere/a.png"


def test_class_ids_become_contiguous_by_ascending_id_and_names_are_stored(tmp_path, content, name, log):
    records = load(tmp_path, content, name)
    metadata = MetadataCatalog.get(name)
    assert list(metadata.thing_classes) == ["ball", "cube", "cone"]
    assert metadata.thing_dataset_id_to_contiguous_id == {3: 0, 7: 1, 12: 2}
    mapped = [annotation["category_id"] for record in records for annotation in record["annotations"]]
    originals = [annotation["category_id"] for annotation in content["annotations"]]
    assert mapped == [{3: 0, 7: 1, 12: 2}[original] for original in originals]
    assert "mapping" in log.text


def test_ids_from_one_or_a_name_with_coco_give_no_warning(tmp_path, content, log):
    for category in content["categories"]:
        category["id"] = {7: 1, 3: 2, 12: 3}[category["id"]]
    content["annotations"] = []
    load(tmp_path, content, "test_small_set_from_one")
    MetadataCatalog.remove("test_small_set_from_one")
    load(tmp_path, coco_content(), "test_coco_like")
    MetadataCatalog.remove("test_coco_like")
    assert "mapping" not in log.text


def test_without_a_name_ids_stay_and_categories_are_not_needed(tmp_path, content):
    del content["categories"]
    records = load(tmp_path, content)
    assert records[1]["annotations"][0]["category_id"] == content["annotations"][0]["category_id"]


def test_extra_annotation_keys_are_kept_when_asked_for(tmp_path, content):
    assert "area" not in load(tmp_path, content)[1]["annotations"][0]
    assert load(tmp_path, content, extra_annotation_keys=["area"])[1]["annotations"][0]["area"] == 120


def test_a_file_without_annotations_gives_images_without_objects(tmp_path, content):
    del content["annotations"]
    assert [record["annotations"] for record in load(tmp_path, content)] == [[]] * 5


def test_segmentations_are_cleaned(tmp_path, content, log):
    box = (2, 2, 8, 8)
    square = [2, 2, 10, 2, 10, 10, 2, 10]
    rle = {"size": [50, 30], "counts": [100, 20, 1380]}
    content["annotations"] = [
        box_annotation(1, 4, 3, box, segmentation=[square, [1, 2, 3, 4], [1, 2, 3, 4, 5, 6, 7]]),
        box_annotation(2, 4, 7, box, segmentation=[[1, 2, 3, 4]]),
        box_annotation(3, 4, 12, box, segmentation=[]),
        box_annotation(4, 4, 3, box, segmentation=rle),
    ]
    annotations = load(tmp_path, content)[1]["annotations"]
    assert [annotation["category_id"] for annotation in annotations] == [3, 12, 3]  # the second is dropped
    assert annotations[0]["segmentation"] == [square]
    assert "segmentation" not in annotations[1]
    from pycocotools import mask

    assert mask.area(annotations[2]["segmentation"]) == 20
    assert any(record.levelno == logging.WARNING and "1" in record.getMessage() for record in log.records)


def with_annotations_of_an_absent_image(content: dict) -> dict:
    strays = [box_annotation(100 + i, 999, 3, (1, 1, 5, 5)) for i in range(3)]
    return {**content, "annotations": content["annotations"] + strays}


def test_annotations_of_images_that_are_not_there_are_ignored_with_a_warning(tmp_path, content, log):
    load(tmp_path, content)
    assert not [r for r in log.records if r.levelno == logging.WARNING]
    records = load(tmp_path, with_annotations_of_an_absent_image(content))
    assert sum(len(record["annotations"]) for record in records) == 4
    assert [r for r in log.records if r.levelno == logging.WARNING]


@pytest.mark.fallback("detectron2")
def test_annotations_of_images_that_are_not_there_are_counted(tmp_path, content, log):
    load(tmp_path, with_annotations_of_an_absent_image(content))
    assert any("3" in r.getMessage() and r.levelno == logging.WARNING for r in log.records)


@pytest.mark.parametrize(
    "spoil, error",
    [
        (lambda c: c["annotations"][0].update(category_id=99), KeyError),
        (lambda c: c["annotations"][0].update(bbox=[]), ValueError),
        (lambda c: c["annotations"][0].update(ignore=1), AssertionError),
        (lambda c: c["annotations"][1].update(id=1), AssertionError),
    ],
)
def test_annotations_that_make_no_sense_are_errors(tmp_path, content, name, spoil, error):
    spoil(content)
    with pytest.raises(error):
        load(tmp_path, content, name)


def test_classes_that_differ_from_the_metadata_are_an_error(tmp_path, content, name):
    MetadataCatalog.get(name).thing_classes = ["something", "else"]
    with pytest.raises(AssertionError):
        load(tmp_path, content, name)


def test_a_missing_file_is_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        load_coco_json(str(tmp_path / "no.json"), str(tmp_path))


@pytest.mark.fallback("detectron2")
@pytest.mark.parametrize(
    "spoil, expected",
    [
        (lambda c: c.pop("categories"), ["categories"]),
        (lambda c: c["images"][0].pop("height"), ["13", "height"]),
        (lambda c: c["images"][0].pop("file_name"), ["13", "file_name"]),
        (lambda c: c["annotations"][0].pop("id"), ["image 4", "id"]),
        (lambda c: c["annotations"][1].update(category_id=99), ["annotation 2", "image 7", "99"]),
    ],
)
def test_an_error_names_the_file_and_the_entry(tmp_path, content, name, spoil, expected):
    spoil(content)
    path = tmp_path / "spoilt.json"
    path.write_text(json.dumps(content))
    with pytest.raises(KeyError) as caught:
        load_coco_json(str(path), str(tmp_path), name)
    assert all(text in str(caught.value) for text in [str(path), *expected])


@pytest.mark.fallback("detectron2")
def test_images_that_share_an_id_are_counted(tmp_path, content, log):
    content["images"][0]["id"] = content["images"][1]["id"]
    assert len(load(tmp_path, content)) == 4
    assert "1 images share" in log.text


@pytest.mark.fallback("detectron2")
def test_a_missing_builtin_data_set_says_where_it_is_looked_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="DETECTRON2_DATASETS"):
        DatasetCatalog.get("coco_2017_val_100")


# Registering


def test_registering_opens_nothing_and_sets_the_metadata(name):
    register_coco_instances(name, {"color": "red"}, "no/such.json", "no/images")
    metadata = MetadataCatalog.get(name)
    assert metadata.json_file == "no/such.json" and metadata.image_root == "no/images"
    assert metadata.evaluator_type == "coco" and metadata.color == "red"
    with pytest.raises(FileNotFoundError):
        DatasetCatalog.get(name)


def test_registering_other_paths_or_types_is_an_error(name):
    register_coco_instances(name, {}, "a.json", "a")
    with pytest.raises(AssertionError):
        register_coco_instances(name, {}, "b.json", "a")
    with pytest.raises(AssertionError):
        register_coco_instances(3, {}, "a.json", "a")


@pytest.mark.fallback("detectron2")
def test_registering_the_same_again_is_no_error(name):
    for _ in range(2):
        register_coco_instances(name, {}, "a.json", "a")


def test_every_get_parses_anew(tmp_path, content, name):
    register_coco_instances(name, {}, write_coco(tmp_path, content), str(tmp_path))
    first = DatasetCatalog.get(name)
    first[0]["annotations"].append("changed")
    assert DatasetCatalog.get(name)[0]["annotations"] == []


def test_the_coco_names_are_known_without_any_file():
    for split in ("coco_2017_train", "coco_2017_val", "coco_2014_minival", "coco_2017_test-dev"):
        assert split in DatasetCatalog.list()
    metadata = MetadataCatalog.get("coco_2017_val")
    assert len(metadata.thing_classes) == len(metadata.thing_colors) == 80
    assert metadata.json_file.endswith("coco/annotations/instances_val2017.json")
    mapping = metadata.thing_dataset_id_to_contiguous_id
    assert sorted(mapping.values()) == list(range(80)) and max(mapping) == 90
    assert set(range(1, 91)) - set(mapping) == {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}
    assert metadata.thing_classes[mapping[90]] == "toothbrush" and metadata.thing_classes[mapping[13]] == "stop sign"


def test_the_coco_names_follow_the_environment(python, python_env, tmp_path):
    import subprocess

    code = (
        "import dinov2_detrex; from detectron2.data import MetadataCatalog as M; "
        "print(M.get('coco_2017_train').json_file); print(M.get('coco_2014_valminusminival').image_root)"
    )
    env = {**python_env, "DETECTRON2_DATASETS": str(tmp_path), "HOME": "/nowhere"}
    done = subprocess.run([python, "-c", code], env=env, capture_output=True, text=True, timeout=300, check=True)
    assert done.stdout.split() == [
        str(tmp_path / "coco/annotations/instances_train2017.json"),
        str(tmp_path / "coco/val2014"),
    ]


# The catalogs


def test_a_name_is_registered_once_and_with_a_function(name):
    with pytest.raises(AssertionError):
        DatasetCatalog.register(name, [])
    DatasetCatalog.register(name, lambda: [1])
    with pytest.raises(AssertionError):
        DatasetCatalog.register(name, lambda: [2])
    assert DatasetCatalog.get(name) == [1] and name in DatasetCatalog.list()
    DatasetCatalog.remove(name)
    with pytest.raises(KeyError, match="coco_2017_val"):
        DatasetCatalog.get(name)


def test_metadata_is_one_object_per_name_and_keeps_its_values(name):
    metadata = MetadataCatalog.get(name)
    assert metadata is MetadataCatalog.get(name) and metadata.name == name
    assert metadata.set(thing_classes=["a"]) is metadata
    metadata.thing_classes = ["a"]
    with pytest.raises(AssertionError):
        metadata.thing_classes = ["b"]
    assert metadata.get("nothing") is None and metadata.get("nothing", 3) == 3
    assert not hasattr(metadata, "nothing")
    with pytest.raises(AttributeError, match=name):
        metadata.nothing  # noqa: B018
    copy = metadata.as_dict()
    copy["thing_classes"] = ["c"]
    assert metadata.thing_classes == ["a"]
    with pytest.raises(AssertionError):
        MetadataCatalog.get("")


def test_metadata_still_knows_its_old_names(name):
    MetadataCatalog.get(name).thing_classes = ["a"]
    assert MetadataCatalog.get(name).class_names == ["a"]


# And back


def test_a_registered_set_is_written_as_coco_and_loads_again(tmp_path, content, name):
    register_coco_instances(name, {}, write_coco(tmp_path, content), str(tmp_path))
    DatasetCatalog.get(name)
    out = tmp_path / "made" / "out.json"
    convert_to_coco_json(name, str(out))
    written = json.loads(out.read_text())
    assert [annotation["id"] for annotation in written["annotations"]] == [1, 2, 3, 4]
    for new, old in zip(written["annotations"], content["annotations"]):
        assert {key: new[key] for key in ("image_id", "category_id", "bbox", "iscrowd", "area")} == {
            key: old[key] for key in ("image_id", "category_id", "bbox", "iscrowd", "area")
        }
    assert {c["id"]: c["name"] for c in written["categories"]} == {7: "cube", 3: "ball", 12: "cone"}
    assert load_coco_json(str(out), "") == DatasetCatalog.get(name) or len(load_coco_json(str(out), "")) == 5


def test_areas_come_from_polygons(tmp_path, name):
    triangle = [[0.0, 0.0, 10.0, 0.0, 10.0, 10.0]]
    annotation = {"bbox": [0, 0, 10, 10], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 0, "segmentation": triangle}
    record = {"file_name": "a", "height": 20, "width": 20, "image_id": 0, "annotations": [annotation]}
    DatasetCatalog.register(name, lambda: [record])
    MetadataCatalog.get(name).thing_classes = ["a"]
    convert_to_coco_json(name, str(tmp_path / "out.json"))
    (written,) = json.loads((tmp_path / "out.json").read_text())["annotations"]
    assert written["area"] == pytest.approx(50, rel=0.15)  # pixels or geometry
    assert np.allclose(written["segmentation"], triangle) and written["category_id"] == 0


@pytest.mark.fallback("detectron2")
def test_a_written_set_is_used_again_unless_the_data_set_has_changed(tmp_path, name, log):
    records = [{"file_name": "a", "height": 2, "width": 2, "image_id": 0, "annotations": []}]
    DatasetCatalog.register(name, lambda: records)
    MetadataCatalog.get(name).thing_classes = ["a"]
    out = tmp_path / "out.json"
    convert_to_coco_json(name, str(out))
    first = out.read_text()
    assert json.loads(first)["annotations"] == []
    convert_to_coco_json(name, str(out))
    assert out.read_text() == first and "existing" in log.text
    records.append({**records[0], "image_id": 1})
    convert_to_coco_json(name, str(out))
    assert len(json.loads(out.read_text())["images"]) == 2
