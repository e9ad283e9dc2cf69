"""A detector of detrex's own on this project's backbone through the program: an iteration, AP, a prediction."""

import json

import pytest
from real_recipes import NEEDS_CHECKOUT

from dinov2_detrex.cli import run_command
from dinov2_detrex.config.loading import load

pytestmark = [pytest.mark.real("detectron2", "detrex"), NEEDS_CHECKOUT]

CONFIG = "projects/h_deformable_detr_dinov2/configs/COCO/h_deformable_detr_dinov2_b_12ep.py"
SMALL = [
    "train.device=cpu",
    "train.max_iter=1",
    "dataloader.image.size=64",
    "dataloader.train.total_batch_size=2",
    "dataloader.train.num_workers=0",
    "dataloader.test.num_workers=0",
    "model.backbone.net.pretrained=false",
    "model.backbone.net.embed_dim=32",
    "model.backbone.net.depth=1",
    "model.backbone.net.num_heads=2",
    "model.num_classes=3",
    "model.criterion.num_classes=3",
    "model.num_queries_one2one=5",
    "model.num_queries_one2many=10",
    "model.select_box_nums_for_evaluation=5",
    "model.transformer.two_stage_num_proposals=15",
    "model.transformer.encoder.num_layers=1",
    "model.transformer.encoder.feedforward_dim=32",
]


def test_h_deformable_detr_trains_evaluates_and_predicts(tiny_shapes, tmp_path):
    from dinov2_detrex.inference import Predictor

    dataset = "dinov2_detrex.data.coco_dataset_dicts"
    data = []
    for part, split in (("train", "train"), ("test", "val")):
        where = f"json_file: '{tiny_shapes}/annotations/instances_{split}.json', image_root: '{tiny_shapes}/{split}'"
        data.append(f"++dataloader.{part}.dataset={{_target_: {dataset}, names: h_detr_{split}, {where}}}")
    line = ["--config-file", CONFIG, *SMALL, *data, f"train.output_dir={tmp_path}"]
    assert run_command("train", line) == 0
    assert "bbox/AP" in json.loads((tmp_path / "metrics.json").read_text().splitlines()[-1])
    predictor = Predictor(load(str(tmp_path / "config.yaml"), []), tmp_path / "model_final.pth")
    found = predictor(next((tiny_shapes / "val").iterdir()), score_threshold=0.0)
    assert len(found) == 5 and {detection["category_name"] for detection in found} <= {"circle", "triangle", "square"}
