"""Own data from a config: registered, loaded, checked and evaluated without code."""

import os
import pickle

import pytest
from detectron2.config import LazyCall as L
from detectron2.config import LazyConfig, instantiate
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Boxes, BoxMode, Instances
from omegaconf import OmegaConf

from dinov2_detrex import get_config
from dinov2_detrex.data import (
    DatasetError,
    class_names_by_id,
    class_names_of,
    coco_dataset_dicts,
    count_classes,
    count_images,
)

NAME = "own_train"


@pytest.fixture(autouse=True)
def fresh(monkeypatch, tmp_path):
    """No data set registered by a test outlives it; the cache is the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    before = set(DatasetCatalog.list())
    yield
    for name in set(DatasetCatalog.list()) - before:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def load(coco, **options):
    return coco_dataset_dicts(NAME, str(coco.json_file), str(coco.images), **options)


def test_records_and_metadata_come_from_the_json(sound_coco):
    first, second = load(sound_coco)
    assert first["file_name"] == str(sound_coco.images / "1.jpg") and (first["height"], first["width"]) == (40, 60)
    (annotation,) = second["annotations"]
    assert annotation["bbox"] == [10.5, 20, 30, 40.25] and annotation["bbox_mode"] == BoxMode.XYWH_ABS
    assert annotation["category_id"] == 1  # contiguous
    metadata = MetadataCatalog.get(NAME)
    assert class_names_of(NAME) == ["cat", "dog"] and metadata.json_file == str(sound_coco.json_file)
    assert metadata.thing_dataset_id_to_contiguous_id == {1: 0, 2: 1}


def test_it_can_be_called_again(sound_coco):
    assert load(sound_coco) == load(sound_coco)


def test_a_name_stands_for_the_files_given_last(sound_coco, tmp_path):
    load(sound_coco)
    other = type(sound_coco)(tmp_path / "other")
    other.document["categories"] = [{"id": 4, "name": "fish"}]
    other.add_image(9)
    other.add_box([1, 1, 5, 5], image_id=9, category_id=4)
    (record,) = load(other.write())
    assert record["image_id"] == 9 and class_names_of(NAME) == ["fish"]


def test_empty_images_are_left_out_where_asked(sound_coco):
    sound_coco.add_image(3)
    sound_coco.add_image(4)
    sound_coco.add_box([1, 1, 30, 30], image_id=4, iscrowd=1)
    sound_coco.write()
    assert [record["image_id"] for record in load(sound_coco)] == [1, 2]
    assert [record["image_id"] for record in load(sound_coco, filter_empty=False)] == [1, 2, 3, 4]


@pytest.mark.parametrize("missing", ["json", "images"])
def test_missing_files_are_one_line_that_names_them(sound_coco, missing):
    path = sound_coco.json_file if missing == "json" else sound_coco.images
    path.rename(path.with_name("elsewhere"))
    with pytest.raises(FileNotFoundError) as caught:
        load(sound_coco)
    assert f"{path} not found" in str(caught.value) and NAME in str(caught.value) and "\n" not in str(caught.value)
    assert isinstance(caught.value, DatasetError)


def test_missing_shapes_name_the_command_that_makes_them(tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    with pytest.raises(FileNotFoundError) as caught:
        instantiate(get_config("common/data/shapes.py").dataloader.train.dataset)
    assert "python -m dinov2_detrex.data.shapes" in str(caught.value)
    assert f"DETECTRON2_DATASETS, is {tmp_path}" in str(caught.value)


def test_a_registered_name_needs_no_paths(sound_coco):
    records = load(sound_coco)
    assert coco_dataset_dicts(NAME) == records
    sound_coco.json_file.unlink()
    with pytest.raises(FileNotFoundError, match="train.json not found"):
        coco_dataset_dicts(NAME)


def test_an_unknown_name_without_paths_is_an_error():
    with pytest.raises(KeyError, match="nowhere"):
        coco_dataset_dicts("nowhere")


def test_a_tilde_is_the_home_folder(sound_coco, monkeypatch):
    """A shell leaves it as it is in `data.train.json=~/my.json`."""
    monkeypatch.setenv("HOME", str(sound_coco.root))
    records = coco_dataset_dicts(NAME, "~/train.json", "~/images", check=True, classes_from="~/train.json")
    assert records == load(sound_coco) and count_classes("~/train.json") == 2


@pytest.mark.parametrize("image_root", [None, ""])
def test_half_a_data_set_is_an_error(sound_coco, image_root):
    with pytest.raises(DatasetError, match="both are needed"):
        coco_dataset_dicts(NAME, str(sound_coco.json_file), image_root)


# --------------------------------------------------------------------------------------------------- class mapping


@pytest.mark.parametrize("ids", [(0, 1, 2), (1, 2, 3), (7, 40, 90), (90, 7, 40), (3, 1, 2)])
def test_any_category_ids_become_contiguous_in_ascending_order(coco, ids):
    """Ids from 0, from 1, with gaps, unordered."""
    coco.document["categories"] = [{"id": number, "name": f"class {number}"} for number in ids]
    coco.add_image(1)
    for number in ids:
        coco.add_box([number / 2, 1, 10, 10], category_id=number)
    (record,) = load(coco.write())
    expected = [f"class {number}" for number in sorted(ids)]
    assert class_names_of(NAME) == expected and count_classes(coco.json_file) == 3
    assert list(class_names_by_id(coco.json_file).items()) == [(n, f"class {n}") for n in sorted(ids)]
    found = [expected[annotation["category_id"]] for annotation in record["annotations"]]
    assert found == [f"class {number}" for number in ids]


def test_counts_follow_a_changed_file(sound_coco):
    assert (count_classes(sound_coco.json_file), count_images(sound_coco.json_file)) == (2, 2)
    sound_coco.document["categories"].append({"id": 3, "name": "cow"})
    sound_coco.add_image(3)
    sound_coco.write()
    assert (count_classes(sound_coco.json_file), count_images(sound_coco.json_file)) == (3, 3)


def test_a_json_without_images_is_refused_by_name(coco):
    with pytest.raises(DatasetError, match="train.json lists no images"):
        count_images(coco.write().json_file)


def test_counting_the_classes_of_no_file_says_what_to_give(tmp_path):
    with pytest.raises(DatasetError, match="data.train.json"):
        count_classes("")
    with pytest.raises(DatasetError, match="absent.json is not there"):
        count_classes(tmp_path / "absent.json")


# --------------------------------------------------------------------------------------------- check and evaluation


def spoil(coco):
    """Harmless faults of three kinds; annotation ids that begin at 0 among them."""
    coco.add_box([5, 5, 0, 0])
    for annotation in coco.document["annotations"]:
        annotation["id"] -= 1
        del annotation["area"], annotation["iscrowd"]
    return coco.write()


def perfect_evaluation(records, name):
    """COCOEvaluator's result for predictions equal to the ground truth."""
    from detectron2.evaluation import COCOEvaluator

    evaluator = COCOEvaluator(name, tasks=("bbox",), distributed=False)
    evaluator.reset()
    for record in records:
        objects = record["annotations"]
        boxes = Boxes([BoxMode.convert(list(o["bbox"]), o["bbox_mode"], BoxMode.XYXY_ABS) for o in objects])
        import torch

        classes = torch.tensor([o["category_id"] for o in objects])
        found = Instances(
            (record["height"], record["width"]), pred_boxes=boxes, scores=torch.ones(len(boxes)), pred_classes=classes
        )
        evaluator.process([record], [{"instances": found}])
    return evaluator.evaluate()["bbox"]


def test_the_evaluator_works_on_a_name_registered_this_way(sound_coco):
    result = perfect_evaluation(load(sound_coco), NAME)
    assert result["AP"] == pytest.approx(100) and result["AP-dog"] == pytest.approx(100)


def test_repaired_data_is_what_training_and_evaluation_use(sound_coco):
    original = spoil(sound_coco).json_file.read_bytes()
    records = load(sound_coco, check=True)
    assert [len(record["annotations"]) for record in records] == [1, 1]
    assert perfect_evaluation(records, NAME)["AP"] == pytest.approx(100)
    assert sound_coco.json_file.read_bytes() == original


def test_the_check_logs_one_line_and_does_not_repeat_itself(sound_coco, caplog):
    spoil(sound_coco)
    with caplog.at_level("INFO", logger="dinov2_detrex.data.registration"):
        assert load(sound_coco, check=True) == load(sound_coco, check=True)
    (line,) = [record.message for record in caplog.records if record.name == "dinov2_detrex.data.registration"]
    assert "1 boxes without area skipped" in line and "2 areas filled in" in line


def test_harmful_data_is_an_error_before_anything_is_registered(sound_coco):
    sound_coco.add_box([1, 1, float("nan"), 1], id=77)
    sound_coco.write()
    with pytest.raises(DatasetError, match="annotation 77"):
        load(sound_coco, check=True)
    assert NAME not in DatasetCatalog.list()


def validation_set(coco, tmp_path, categories):
    val = type(coco)(tmp_path / "val")
    val.document["categories"] = categories
    val.add_image(1)
    val.add_box([1, 1, 20, 20], category_id=categories[-1]["id"])
    return val.write()


def test_validation_data_takes_the_classes_of_the_training_data(sound_coco, tmp_path):
    """A validation JSON that lists only what it contains would otherwise call dogs cats."""
    val = validation_set(sound_coco, tmp_path, [{"id": 2, "name": "dog"}])
    (record,) = load(val, check=True, classes_from=str(sound_coco.json_file))
    assert class_names_of(NAME) == ["cat", "dog"] and record["annotations"][0]["category_id"] == 1


@pytest.mark.parametrize("category", [{"id": 1, "name": "dog"}, {"id": 5, "name": "cow"}])
def test_validation_data_with_other_classes_is_an_error(sound_coco, tmp_path, category):
    val = validation_set(sound_coco, tmp_path, [category])
    with pytest.raises(DatasetError, match=f"category id {category['id']}"):
        load(val, check=True, classes_from=str(sound_coco.json_file))


# ------------------------------------------------------------------------------------------------- in a config file


def test_it_works_from_a_lazy_config_that_was_saved_and_loaded(sound_coco, tmp_path):
    cfg = OmegaConf.create(flags={"allow_objects": True})
    cfg.dataset = L(coco_dataset_dicts)(
        names=NAME, json_file=str(sound_coco.json_file), image_root=str(sound_coco.images), check=True
    )
    LazyConfig.save(cfg, str(tmp_path / "config.yaml"))
    assert "dinov2_detrex.data" in (tmp_path / "config.yaml").read_text()
    records = instantiate(LazyConfig.load(str(tmp_path / "config.yaml")).dataset)
    assert records == load(sound_coco)
    assert pickle.loads(pickle.dumps(records)) == records and os.path.isabs(records[0]["file_name"])
