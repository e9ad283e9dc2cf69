"""A run of the recipe for own data with adapters: they and the detector train, resuming is exact, merging is free."""

import json

import pytest
import torch
from detectron2.config import instantiate
from tiny_custom import CUSTOM_RECIPE, TINY_CUSTOM

from dinov2_detrex.backbone.adapters import AdaptedLinear
from dinov2_detrex.cli import run_command
from dinov2_detrex.config.loading import load
from dinov2_detrex.config.pretrained import without_pretrained
from dinov2_detrex.data import generate_shapes
from dinov2_detrex.inference import Predictor
from dinov2_detrex.runtime.packages import CONFIG
from dinov2_detrex.training import checkpoint
from dinov2_detrex.training.init_checkpoint import load_init_checkpoint
from dinov2_detrex.training.weights import load_all

ITERATIONS = 4
ADAPTERS = ("lora_A", "lora_B")


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    return generate_shapes(tmp_path_factory.mktemp("data") / "shapes", num_train=8, num_val=3, image_size=64)


def train(shapes, folder, *overrides, resume=False):
    data = [
        f"data.{part}.{key}={shapes / path}"
        for part in ("train", "val")
        for key, path in (("json", f"annotations/instances_{part}.json"), ("images", part))
    ]
    given = [*TINY_CUSTOM, "model.backbone.net.pretrained=False", "model.backbone.net.freeze=lora", *data]
    given += ["model.backbone.net.init_values=1.0", "dataloader.train.total_batch_size=2", "train.seed=0"]
    given += ["dataloader.train.num_workers=0", "dataloader.test.num_workers=0", "train.eval_period=0"]
    given += [f"train.max_iter={ITERATIONS}", "train.checkpointer.period=2", "train.model_ema.enabled=True"]
    given += [
        "model.backbone.net.lora_rank=4",
        "train.model_ema.decay=0.5",
        "optimizer.lr=0.01",
        "schedule.warmup_iters=0",
        f"train.output_dir={folder}",
        *overrides,
    ]
    resuming = ["--resume"] if resume else []
    return run_command("train", ["--config-file", CUSTOM_RECIPE, "--no-report", *resuming, *given])


@pytest.fixture(scope="module")
def run(shapes, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    assert train(shapes, folder) == 0
    return folder


def state_of(folder, name="model_final"):
    return checkpoint.read(folder / f"{name}.pth")


def model_of(folder):
    return instantiate(without_pretrained(load(str(folder), [])).model).eval()


def image_record():
    return [{"image": torch.arange(3 * 64 * 64).reshape(3, 64, 64) % 255, "height": 64, "width": 64}]


def test_of_the_vit_the_adapters_alone_train_and_of_the_rest_everything(run):
    early, late = state_of(run, "model_0000001")["model"], state_of(run)["model"]
    changed = {name for name in late if not torch.equal(early[name], late[name])}
    of_vit = {name for name in changed if "timm_model" in name}
    assert of_vit == {name for name in late if name.endswith(ADAPTERS)} and len(of_vit) == 4
    assert {name.split(".")[0] for name in changed} >= {"backbone", "neck", "transformer", "bbox_embed"}


def test_a_run_with_adapters_resumes_exactly(run, shapes, tmp_path):
    (tmp_path / "again").mkdir()
    (tmp_path / "again" / "model_0000001.pth").write_bytes((run / "model_0000001.pth").read_bytes())
    (tmp_path / "again" / "last_checkpoint").write_text("model_0000001.pth")
    assert train(shapes, tmp_path / "again", resume=True) == 0
    whole, resumed = state_of(run), state_of(tmp_path / "again")
    for key in ("model", "ema_state"):
        assert whole[key].keys() == resumed[key].keys()
        assert all(torch.equal(value, resumed[key][name]) for name, value in whole[key].items()), key


@pytest.mark.parametrize("weights", ["final", "averaged"])
def test_a_package_is_a_plain_detector_with_the_boxes_of_the_adapted_one(run, tmp_path, weights):
    package = tmp_path / "package"
    assert run_command("package", [str(run), "--weights", weights, "--out", str(package)]) == 0
    adapted = model_of(run)
    load_all(adapted, str(run / "model_final.pth"), averaged=weights == "averaged")
    plain = Predictor.from_pretrained(package, device="cpu").model
    assert not any("lora" in name for name in plain.state_dict())
    assert "lora" not in (package / CONFIG).read_text()
    with torch.no_grad():
        expected, found = (model(image_record())[0]["instances"] for model in (adapted, plain))
    torch.testing.assert_close(found.scores, expected.scores, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.pred_boxes.tensor, expected.pred_boxes.tensor, rtol=1e-4, atol=1e-3)
    with torch.no_grad():
        for module in adapted.modules():
            if isinstance(module, AdaptedLinear):
                module.lora_B.zero_()
        without = adapted(image_record())[0]["instances"]
    assert not torch.allclose(without.scores, expected.scores, rtol=1e-4, atol=1e-5)


def test_predicting_from_a_run_merges_its_adapters(run):
    model = Predictor.from_run(run, "final", device="cpu").model
    assert not any(isinstance(module, AdaptedLinear) for module in model.modules())


def test_a_plain_detector_starts_from_an_adapted_one_and_the_other_way_round(run, tmp_path):
    overrides = ["model.backbone.net.freeze=True", "model.backbone.net.lora_rank=8"]
    plain = instantiate(without_pretrained(load(str(run), overrides)).model).eval()
    load_init_checkpoint(plain, str(run / "model_final.pth"), lambda: ["circle", "triangle", "square"])
    adapted = model_of(run)
    load_all(adapted, str(run / "model_final.pth"))
    checkpoint.write(tmp_path / "plain.pth", {"model": plain.state_dict()})
    other = model_of(run)
    load_init_checkpoint(other, str(tmp_path / "plain.pth"))
    with torch.no_grad():
        boxes = [model(image_record())[0]["instances"].pred_boxes.tensor for model in (adapted, plain, other)]
    torch.testing.assert_close(boxes[1], boxes[0], rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(boxes[2], boxes[1], rtol=1e-4, atol=1e-3)


def test_rare_classes_and_the_average_that_ends_a_run_are_options_of_the_same_recipe(shapes, tmp_path, capfd):
    options = ["dataloader.train.repeat_thresh=0.9", "train.eval_period=1", "train.early_stopping.patience=1"]
    assert train(shapes, tmp_path / "rare", *options, "optimizer.lr=0") == 0
    out = capfd.readouterr().out
    assert "repeat-factor sampling: " in out and "no better ema/bbox/AP for 1 evaluations" in out
    metrics = [json.loads(line) for line in (tmp_path / "rare" / "metrics.json").read_text().splitlines()]
    assert any("ema/bbox/AP" in line for line in metrics)
