"""What a config's numbers are compared with before the model is built: classes and the fullest image of its data."""

import pytest
from detectron2.config import LazyCall as L
from detectron2.evaluation import COCOEvaluator
from omegaconf import OmegaConf

from dinov2_detrex.data import DatasetError, coco_dataset_dicts
from dinov2_detrex.runtime.errors import UserError
from dinov2_detrex.training.datasets import check_datasets


def check(coco, **model):
    coco.write()
    paths = {"json_file": str(coco.json_file), "image_root": str(coco.images), "check": True}
    loaders = {
        split: {"dataset": L(coco_dataset_dicts)(names=f"limits_{split}", **paths)} for split in ("train", "test")
    }
    loaders["evaluator"] = L(COCOEvaluator)(dataset_name="limits_test")
    cfg = OmegaConf.create({"dataloader": loaders, "model": model}, flags={"allow_objects": True})
    check_datasets(cfg.dataloader, cfg_model=cfg.model)


def test_another_number_of_classes_than_the_datas_is_refused_in_one_line(sound_coco):
    with pytest.raises(UserError, match=r"^model.num_classes=5, but .* has 2 classes \(cat, dog\): set .*=2$"):
        check(sound_coco, num_classes=5)
    check(sound_coco, num_classes=2)


@pytest.mark.parametrize("how", ["none", "crowds"])
def test_training_data_without_an_object_are_refused(sound_coco, how):
    if how == "none":
        del sound_coco.document["annotations"]
    else:
        for annotation in sound_coco.document["annotations"]:
            annotation["iscrowd"] = 1
    with pytest.raises(DatasetError, match="there is no object to train on"):
        check(sound_coco)


def test_limits_below_the_fullest_image_are_one_line_with_the_overrides(sound_coco, caplog):
    for _ in range(149):
        sound_coco.add_box([5, 5, 20, 10])
    limits = {"num_queries": 30, "select_box_nums_for_evaluation": 300, "dn_number": 100}
    check(sound_coco, num_classes=2, **limits)
    (line,) = [record.getMessage() for record in caplog.records if "to take all" in record.getMessage()]
    assert "150 objects in 1.jpg, 150 of the class 'cat' in 1.jpg" in line and "\n" not in line
    overrides = line.partition("to take all: ")[2].split()
    assert sorted(overrides) == [
        "dataloader.evaluator.max_dets_per_image=150", "model.dn_number=150", "model.num_queries=150"
    ]  # fmt: skip


def test_limits_that_follow_one_option_are_raised_by_it(sound_coco, caplog):
    for _ in range(149):
        sound_coco.add_box([5, 5, 20, 10])
    following = {key: "${d2d.at_least:30,${.max_objects}}" for key in ("num_queries", "select_box_nums_for_evaluation")}
    check(sound_coco, num_classes=2, max_objects=None, dn_number=100, **following)
    (line,) = [record.getMessage() for record in caplog.records if "to take all" in record.getMessage()]
    overrides = line.partition("to take all: ")[2].split()
    assert sorted(overrides) == [
        "dataloader.evaluator.max_dets_per_image=150", "model.dn_number=150", "model.max_objects=150"
    ]  # fmt: skip
    caplog.clear()
    check(sound_coco, num_classes=2, max_objects=150, dn_number=150, **following)
    (line,) = [record.getMessage() for record in caplog.records if "to take all" in record.getMessage()]
    assert line.partition("to take all: ")[2] == "dataloader.evaluator.max_dets_per_image=150"


def test_limits_that_suffice_are_not_mentioned(sound_coco, caplog):
    check(sound_coco, num_classes=2, num_queries=1, select_box_nums_for_evaluation=1, dn_number=0)
    assert not any("to take all" in record.getMessage() for record in caplog.records)
