"""Mask R-CNN of the real detectron2 through the program: training, box and mask AP, resuming, own data, predicting."""

import json

import numpy as np
import pytest
import torch
from coco_folder import CocoFolder
from detectron2.data import DatasetCatalog, MetadataCatalog
from pycocotools import mask as coco_mask
from tiny_rcnn import TINY_RCNN

from dinov2_detrex.cli import run_command
from dinov2_detrex.config.loading import load
from dinov2_detrex.training import checkpoint

pytestmark = pytest.mark.real("detectron2")

SHAPES = "projects/rcnn_dinov2/configs/shapes/mask_rcnn_dinov2_tiny_shapes.py"
CUSTOM = "projects/rcnn_dinov2/configs/custom/mask_rcnn_dinov2_b_custom.py"
SMALL = [
    "train.device=cpu",
    "train.max_iter=4",
    "train.checkpointer.period=2",
    "train.seed=3",
    "dataloader.train.total_batch_size=2",
    "model.backbone.net.embed_dim=48",
    "model.backbone.net.depth=2",
    "model.backbone.net.num_heads=3",
]
FEW = ["train.device=cpu", "train.max_iter=2", "train.amp.enabled=false", "dataloader.train.total_batch_size=2"]
NAMES_BY_ID = {40: "owl", 0: "newt", 7: "gnu"}  # from 0, with gaps, unordered


@pytest.fixture(autouse=True)
def fresh(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    yield
    for name in ("custom_train", "custom_val", "shapes_train", "shapes_val"):
        if name in DatasetCatalog.list():
            DatasetCatalog.remove(name)
            MetadataCatalog.remove(name)


@pytest.fixture
def on_shapes(tmp_path, tiny_shapes):
    """on_shapes("name", overrides...) -> the run's folder."""

    def train(name, *arguments):
        data = []
        for part, split in (("train", "train"), ("test", "val")):
            data.append(f"dataloader.{part}.dataset.json_file={tiny_shapes}/annotations/instances_{split}.json")
            data.append(f"dataloader.{part}.dataset.image_root={tiny_shapes}/{split}")
        line = ["--config-file", SHAPES, *data, f"train.output_dir={tmp_path / name}", *SMALL, *arguments]
        assert run_command("train", line) == 0
        return tmp_path / name

    return train


def results_of(folder):
    return json.loads((folder / "metrics.json").read_text().splitlines()[-1])


def test_a_run_measures_boxes_and_masks_and_resumes_to_the_last_bit(on_shapes):
    folder = on_shapes("run")
    assert {"bbox/AP", "segm/AP", "segm/AP50"} <= results_of(folder).keys()
    whole = checkpoint.read(folder / "model_final.pth")["model"]
    (folder / "model_final.pth").unlink()
    (folder / "last_checkpoint").write_text("model_0000001.pth")
    resumed = checkpoint.read(on_shapes("run", "--resume") / "model_final.pth")["model"]
    assert all(torch.equal(resumed[key], whole[key]) for key in whole)


def test_evaluating_the_saved_weights_repeats_the_runs_numbers(on_shapes, tmp_path, capfd):
    folder = on_shapes("run")
    before = results_of(folder)
    on_shapes("again", "--eval-only", f"train.init_checkpoint={folder / 'model_final.pth'}")
    found = json.loads((tmp_path / "again" / "coco_instances_results.json").read_text())
    assert found == json.loads((folder / "coco_instances_results.json").read_text())
    printed = capfd.readouterr().out
    assert "segm" in printed and f"{before['segm/AP']:.4f}" in printed


def test_losses_on_the_evaluation_images_and_averaged_weights_are_measured_too(on_shapes):
    results = results_of(on_shapes("run", "train.validation_loss.enabled=true", "train.model_ema.enabled=true"))
    assert {"validation/mask", "validation/total", "ema/segm/AP"} <= results.keys()
    assert "rpn/num_pos_anchors" not in results  # which the detector notes as it trains


def test_a_package_of_a_run_finds_what_its_weights_find(on_shapes, tiny_shapes, tmp_path):
    from dinov2_detrex.inference import Predictor

    folder, package = on_shapes("run", "train.eval_period=0"), tmp_path / "package"
    assert run_command("package", [str(folder), "--weights", "final", "--out", str(package)]) == 0
    assert "!!python" not in (package / "config.yaml").read_text()  # the shapes of the heads' inputs are values
    picture = sorted((tiny_shapes / "val").iterdir())[0]
    sources = ((folder / "config.yaml", folder / "model_final.pth"), (package, package))
    found = [
        Predictor(load(str(config), ["train.device=cpu"]), weights)(picture, score_threshold=0.0)
        for config, weights in sources
    ]
    assert found[0] and found[0] == found[1]


# -------------------------------------------------------------------------------------------------------- own data


def square(x, y, side):
    return [[x, y, x + side, y, x + side, y + side, x, y + side]]


def rle(x, y, side, width=80, height=70, compressed=True):
    mask = np.zeros((height, width), dtype=np.uint8)
    mask[y : y + side, x : x + side] = 1
    encoded = coco_mask.encode(np.asfortranarray(mask))
    if compressed:
        return {"size": [height, width], "counts": encoded["counts"].decode()}
    changes = np.flatnonzero(np.diff(np.concatenate([[0], mask.ravel(order="F"), [0]])))
    runs = np.diff(np.concatenate([[0], changes, [width * height]]))
    return {"size": [height, width], "counts": runs.tolist()}


def make_data(root):
    """Three images: a polygon and both kinds of RLE side by side; no object; a crowd beside a polygon."""
    coco = CocoFolder(root)
    coco.document["categories"] = [{"id": key, "name": name} for key, name in NAMES_BY_ID.items()]
    for image_id in range(3):
        coco.add_image(image_id, width=80, height=70)
    for index, mask in enumerate([square(5, 10, 30), rle(40, 10, 25), rle(20, 40, 20, compressed=False)]):
        x, y, side = [(5, 10, 30), (40, 10, 25), (20, 40, 20)][index]
        category = list(NAMES_BY_ID)[index]
        coco.add_box([x, y, side, side], image_id=0, category_id=category, id=index + 1, segmentation=mask)
    coco.add_box([8, 8, 40, 40], image_id=2, category_id=7, id=4, segmentation=square(8, 8, 40))
    coco.add_box([0, 0, 80, 70], image_id=2, category_id=7, id=5, iscrowd=1, segmentation=rle(0, 0, 70))
    return coco


def on_own_data(coco, folder, *arguments):
    data = [
        f"data.{part}.{key}='{value}'"
        for part in ("train", "val")
        for key, value in (("json", coco.json_file), ("images", coco.images))
    ]
    line = ["--config-file", CUSTOM, *TINY_RCNN, *FEW, *data, f"train.output_dir={folder}", *arguments]
    return run_command("train", line)


def test_own_data_with_polygons_and_rle_keep_ids_and_names_up_to_the_predictions(tmp_path, capfd):
    from dinov2_detrex.inference import Predictor

    coco, out = make_data(tmp_path / "data").write(), tmp_path / "out"
    threshold = "model.roi_heads.box_predictor.test_score_thresh=0.0"
    assert on_own_data(coco, out, threshold) == 0
    saved = torch.load(out / "model_final.pth", weights_only=True)
    assert saved["metadata"]["thing_classes"] == ["newt", "gnu", "owl"]
    assert {"segm/AP-newt", "segm/AP-gnu", "segm/AP-owl", "bbox/AP-owl"} <= results_of(out).keys()
    found = json.loads((out / "coco_instances_results.json").read_text())
    assert found and {result["category_id"] for result in found} <= set(NAMES_BY_ID)
    assert all(result["segmentation"]["size"] == [70, 80] for result in found)

    predictor = Predictor(load(str(out / "config.yaml"), []), out / "model_final.pth")
    detections = predictor(coco.images / "0.jpg", score_threshold=0.0)
    assert detections and {detection["category_name"] for detection in detections} <= {"newt", "gnu", "owl"}
    instances = predictor.model([predictor.mapper({"file_name": str(coco.images / "0.jpg")})])[0]["instances"]
    assert instances.pred_masks.shape == (len(instances), 70, 80)


def test_objects_without_a_mask_end_the_run_before_it_starts_and_are_counted(tmp_path, capfd):
    coco = make_data(tmp_path / "data")
    coco.add_box([5, 5, 20, 20], image_id=1, category_id=7, id=6)
    assert on_own_data(coco.write(), tmp_path / "out") == 1
    (line,) = capfd.readouterr().err.strip().splitlines()
    assert "1 of 5 objects have no segmentation" in line and "annotation 6" in line and "iscrowd=1" in line


def test_rle_masks_where_polygons_are_asked_for_name_the_option(tmp_path, capfd):
    coco = make_data(tmp_path / "data").write()
    assert on_own_data(coco, tmp_path / "out", "dataloader.train.mapper.mask_format=polygon") == 1
    (line,) = capfd.readouterr().err.strip().splitlines()
    assert "2 of 4 objects have RLE masks" in line and "dataloader.train.mapper.mask_format=bitmask" in line


def test_another_number_of_classes_names_the_key_of_this_detector(tmp_path, capfd):
    coco = make_data(tmp_path / "data").write()
    assert on_own_data(coco, tmp_path / "out", "model.roi_heads.num_classes=5") == 1
    (line,) = capfd.readouterr().err.strip().splitlines()
    assert "set model.roi_heads.num_classes=3" in line
