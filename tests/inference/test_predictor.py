"""Class names and ids come back from a checkpoint alone; detections are the model's own, in the picture's pixels."""

import json
import subprocess
from pathlib import Path

import pytest
import torch
from coco_folder import CocoFolder
from detectron2.config import LazyConfig, instantiate
from PIL import Image
from tiny_custom import CUSTOM_RECIPE, TINY_CUSTOM

from dinov2_detrex.config.loading import load
from dinov2_detrex.config.pretrained import without_pretrained
from dinov2_detrex.config.saving import write_config
from dinov2_detrex.inference import Predictor, classes_of_checkpoint
from dinov2_detrex.runtime.errors import UserError
from dinov2_detrex.training import checkpoint

METADATA = {"thing_classes": ["newt", "gnu", "owl"], "thing_dataset_id_to_contiguous_id": {0: 0, 7: 1, 40: 2}}


@pytest.fixture
def finished(tmp_path):
    """What a run on own data leaves behind: config.yaml and a checkpoint, its data being gone; and a new picture."""
    coco = CocoFolder(tmp_path / "data")
    coco.document["categories"] = [{"id": key, "name": name} for key, name in ((40, "owl"), (0, "newt"), (7, "gnu"))]
    coco.add_image(1, width=60, height=40)
    coco.write()
    paths = [f"data.{s}.{k}='{v}'" for s in ("train", "val") for k, v in (("json", coco.json_file), ("images", "x"))]
    cfg = load(CUSTOM_RECIPE, TINY_CUSTOM + paths)
    cfg = without_pretrained(cfg)
    torch.manual_seed(0)
    model = instantiate(cfg.model)
    with torch.no_grad():
        model.class_embed[0].weight.normal_()  # scores that differ from box to box and class to class
    run = tmp_path / "run"
    cfg.model.backbone.net.pretrained = True  # as a run's config has it; predicting must not download
    write_config(cfg, run)
    checkpoint.write(run / "model_final.pth", {"model": model.state_dict(), "metadata": METADATA})
    coco.json_file.unlink()
    Image.effect_noise((90, 50), 80).save(tmp_path / "new.png")
    return model, run, tmp_path / "new.png"


def test_detections_are_the_models_with_the_names_and_ids_of_the_checkpoint(finished):
    model, run, picture = finished
    cfg = LazyConfig.load(str(run / "config.yaml"))
    found = Predictor(load(str(run / "config.yaml"), []), run / "model_final.pth")(picture, score_threshold=0.0)

    item = instantiate(cfg.dataloader.test.mapper)({"file_name": str(picture), "height": 50, "width": 90})
    with torch.no_grad():
        expected = model.eval()([item])[0]["instances"]
    assert len(found) == len(expected) == 10 and len({d["category_id"] for d in found}) > 1
    names, ids = ["newt", "gnu", "owl"], [0, 7, 40]
    by_score = sorted(range(10), key=lambda i: -float(expected.scores[i]))
    for detection, i in zip(found, by_score):
        x0, y0, x1, y1 = expected.pred_boxes.tensor[i].tolist()
        assert detection["bbox"] == pytest.approx([x0, y0, x1 - x0, y1 - y0], abs=1e-3)
        assert detection["score"] == pytest.approx(float(expected.scores[i]), abs=1e-5)
        index = int(expected.pred_classes[i])
        assert (detection["category_name"], detection["category_id"]) == (names[index], ids[index])
    assert [d["score"] for d in found] == sorted((d["score"] for d in found), reverse=True)


def test_a_checkpoint_without_names_gives_numbers_and_one_with_others_is_refused():
    assert classes_of_checkpoint({}, 2) == classes_of_checkpoint({"metadata": {}}, 2)
    assert classes_of_checkpoint({}, 2).names == ["0", "1"] and classes_of_checkpoint({}, 2).category_ids == [0, 1]
    with pytest.raises(UserError, match="3 classes.*has 80"):
        classes_of_checkpoint({"metadata": METADATA}, 80)


def test_weights_of_another_model_are_one_line_that_names_file_and_tensor(finished):
    _, run, _ = finished
    cfg = load(str(run / "config.yaml"), ["model.num_queries=7", "model.transformer.two_stage_num_proposals=7"])
    with pytest.raises(UserError, match="model_final.pth is of another model.*tgt_embed"):
        Predictor(cfg, run / "model_final.pth")


def test_the_tool_writes_results_and_pictures_and_names_what_it_cannot_read(finished, python, python_env, tmp_path):
    _, run, picture = finished
    tool = str(Path(__file__).parents[2] / "tools" / "predict.py")
    line = [python, tool, "--config-file", str(run / "config.yaml"), "--weights", str(run / "model_final.pth")]
    line += ["--output-dir", str(tmp_path / "out"), "--score-threshold", "0"]
    done = subprocess.run([*line, str(picture)], capture_output=True, text=True, timeout=300, env=python_env)
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert len(results) == 10 and {r["category_name"] for r in results} <= {"newt", "gnu", "owl"}
    drawn = Image.open(tmp_path / "out" / "0000_new.png")
    assert drawn.size == (5 * 90, 5 * 50)  # enlarged, so that labels have room
    assert len(drawn.getcolors(10**6)) > len(Image.open(picture).convert("RGB").getcolors())

    (tmp_path / "text.jpg").write_text("no picture")
    failed = subprocess.run(
        [*line, str(tmp_path / "text.jpg")], capture_output=True, text=True, timeout=300, env=python_env
    )
    assert failed.returncode == 1 and "text.jpg" in failed.stderr.strip().splitlines()[-1]
    assert "Traceback" not in failed.stderr
