"""The real detector through the program: a DINOv2-type ViT with DINO, at a small size, from the shapes recipe."""

import pytest
import torch
from torch.distributed.fsdp import FSDPModule

from dinov2_detrex.cli import run_command
from dinov2_detrex.training import checkpoint

CONFIG = "projects/dino_dinov2/configs/shapes/dino_dinov2_tiny_shapes.py"
SMALL = (
    "train.device=cpu",
    "train.max_iter=2",
    "train.eval_period=0",
    "train.seed=3",
    "dataloader.train.total_batch_size=4",
    "model.embed_dim=32",
    "model.neck.norm_layer.num_groups=4",
    "model.num_queries=12",
    "model.transformer.encoder.feedforward_dim=32",
    "model.backbone.net.embed_dim=48",
    "model.backbone.net.depth=2",
)
PLAIN_DESCENT = (  # one step whose size is the gradient's
    "train.max_iter=1",
    "dataloader.evaluator=null",
    "train.clip_grad.enabled=false",
    "schedule.warmup_iters=0",
    "optimizer._target_=torch.optim.SGD",
    "optimizer.lr=0.01",
    "optimizer.weight_decay=0",
    "~optimizer.betas",
    "optimizer.momentum=0",
)


@pytest.fixture
def run(tmp_path, tiny_shapes, monkeypatch):
    """run("name", overrides...) -> what the final checkpoint holds."""

    def train(name, *arguments):
        data = []
        for part, split in (("train", "train"), ("test", "val")):
            data.append(f"dataloader.{part}.dataset.json_file={tiny_shapes}/annotations/instances_{split}.json")
            data.append(f"dataloader.{part}.dataset.image_root={tiny_shapes}/{split}")
        line = ["--config-file", CONFIG, *data, f"train.output_dir={tmp_path / name}", *SMALL, *arguments]
        assert run_command("train", line) == 0
        return checkpoint.read(tmp_path / name / "model_final.pth")

    return train


def test_processes_parts_and_shards_have_the_gradients_of_one_process_with_the_whole_batch(run):
    # without denoising, whose number of groups depends on the batch that a forward pass sees
    options = (*PLAIN_DESCENT, "model.dn_number=0")
    start = run("start", *options, "optimizer.lr=0")["model"]
    whole = run("whole", *options)["model"]
    ways_to_run = {"processes": ("--num-gpus", "2"), "parts": ("train.accumulate.steps=2",)}
    if hasattr(FSDPModule, "set_reshard_after_forward"):
        ways_to_run["shards"] = ("--num-gpus", "2", "train.fsdp.enabled=true")
    for name, ways in ways_to_run.items():
        found = run(name, *options, *ways)["model"]
        largest = max(float((whole[key] - start[key]).abs().max()) for key in whole)
        assert largest > 1e-4
        for key in whole:
            torch.testing.assert_close(found[key], whole[key], rtol=0, atol=1e-4 * largest, msg=f"{name}: {key}")


def test_the_detector_resumes_to_the_last_bit_with_denoising_averaging_and_bfloat16(run, tmp_path):
    options = (
        "train.max_iter=4",
        "train.checkpointer.period=2",
        "train.model_ema.enabled=true",
        "train.amp.enabled=true",
    )
    whole = run("run", *options)
    (tmp_path / "run" / "model_final.pth").unlink()
    (tmp_path / "run" / "last_checkpoint").write_text("model_0000001.pth")
    resumed = run("run", *options, "--resume")
    for part in ("model", "ema_state"):
        assert all(torch.equal(resumed[part][key], whole[part][key]) for key in whole[part])


def test_the_recipes_muon_steps_alike_in_shards_and_resumes_to_the_last_bit(run, tmp_path):
    options = ("train.max_iter=4", "train.checkpointer.period=2", "model.dn_number=0")
    whole = run("run", *options)["model"]
    (tmp_path / "run" / "model_final.pth").unlink()
    (tmp_path / "run" / "last_checkpoint").write_text("model_0000001.pth")
    resumed = run("run", *options, "--resume")["model"]
    assert all(torch.equal(resumed[key], whole[key]) for key in whole)
    if hasattr(FSDPModule, "set_reshard_after_forward"):
        one_step = ("train.max_iter=1", "schedule.warmup_iters=0")
        start, alone, shards = (
            run(name, *options, *one_step, *ways)["model"]
            for name, ways in {
                "start": ("optimizer.lr=0",),
                "alone": (),
                "shards": ("--num-gpus", "2", "train.fsdp.enabled=true"),
            }.items()
        )
        key = "transformer.encoder.layers.0.ffns.0.layers.0.0.weight"
        largest = float((alone[key] - start[key]).abs().max())
        assert largest > 1e-5
        torch.testing.assert_close(shards[key], alone[key], rtol=0, atol=0.05 * largest)


def test_a_detector_that_diverges_ends_the_run_with_iteration_images_and_checkpoint(tiny_shapes, tmp_path, capfd):
    data = [
        f"dataloader.{part}.dataset.{key}={tiny_shapes}/{path}"
        for part, split in (("train", "train"), ("test", "val"))
        for key, path in (("json_file", f"annotations/instances_{split}.json"), ("image_root", split))
    ]
    options = ["optimizer.lr=1e30", "schedule.warmup_iters=0", "train.max_iter=9", "train.checkpointer.period=1"]
    line = ["--config-file", CONFIG, *data, f"train.output_dir={tmp_path}", *SMALL, *options]
    assert run_command("train", line) == 3
    stderr = capfd.readouterr().err.strip()
    assert stderr.count("\n") == 0 and "iteration 1" in stderr and "/train/" in stderr
    assert f"last good checkpoint: {tmp_path}/model_0000000.pth" in stderr


def test_a_frozen_backbone_is_unchanged_by_training_and_averaging(run):
    saved = run("run", "model.backbone.net.freeze=true", "train.model_ema.enabled=true", "train.model_ema.decay=0.5")
    start = run("start", "model.backbone.net.freeze=true", "optimizer.lr=0")["model"]
    frozen = [key for key in start if key.startswith("backbone.net.")]
    assert frozen and all(
        torch.equal(saved[part][key], start[key]) for part in ("model", "ema_state") for key in frozen
    )
    pyramid = [key for key in start if key.startswith("backbone.simfp_")]  # stands on the ViT and trains
    assert pyramid and not any(torch.equal(saved["model"][key], start[key]) for key in pyramid)
