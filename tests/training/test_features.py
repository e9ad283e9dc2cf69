"""A run that keeps its frozen backbone's features ends as one that does not, to the bit, and resumes as exactly."""

import pytest
import torch
from tiny_custom import TINY_CUSTOM

from dinov2_detrex.backbone.feature_store import SUFFIX
from dinov2_detrex.cli import run_command
from dinov2_detrex.config import recipes_dir
from dinov2_detrex.training import checkpoint

RECIPE = str(recipes_dir() / "projects/dino_dinov2/configs/custom/dino_dinov2_s_frozen_custom.py")
SHORT = (
    *TINY_CUSTOM,
    "dataloader.image.size=128",
    "model.backbone.net.pretrained=false",
    "dataloader.train.total_batch_size=2",
    "dataloader.train.num_workers=0",
    "dataloader.test.num_workers=0",
    "schedule.warmup_iters=1",
    "train.seed=3",
    "train.max_iter=20",
    "train.checkpointer.period=10",
    "train.eval_period=0",
)


@pytest.fixture
def run(tmp_path, tiny_shapes):
    """run("name", overrides...) -> what the final checkpoint holds."""

    def train(name, *arguments):
        data = []
        for part, split in (("train", "train"), ("val", "val")):
            data.append(f"data.{part}.json={tiny_shapes}/annotations/instances_{split}.json")
            data.append(f"data.{part}.images={tiny_shapes}/{split}")
        where = [f"train.output_dir={tmp_path / name}", f"train.feature_cache.folder={tmp_path / 'features'}"]
        assert run_command("train", ["--config-file", RECIPE, *data, *where, *SHORT, *arguments, "--no-report"]) == 0
        return checkpoint.read(tmp_path / name / "model_final.pth")

    return train


def assert_same(one, other):
    assert one["model"].keys() == other["model"].keys()
    assert all(torch.equal(one["model"][key], other["model"][key]) for key in one["model"])


def kept(folder):
    return {path: path.stat().st_mtime_ns for path in (folder / "features").glob(f"??/*{SUFFIX}")}


def test_losses_and_weights_are_those_of_the_plain_run_and_an_image_has_two_inputs(run, tmp_path):
    plain = run("plain", "train.feature_cache.enabled=false")
    assert not (tmp_path / "features").exists()
    first = run("first")
    assert_same(first, plain)
    files = kept(tmp_path)
    assert 14 + 5 < len(files) <= 2 * 14 + 5  # training images with their mirror images, validation images
    assert_same(run("second"), plain)
    assert kept(tmp_path).keys() == files.keys()
    assert "(100 %)" in (tmp_path / "second" / "log.txt").read_text()


def test_a_resumed_run_ends_as_an_undisturbed_one_with_an_empty_cache_too(run, tmp_path):
    options = ("train.amp.enabled=true", "train.feature_cache.dtype=bfloat16")
    whole = run("run", *options)
    for path in kept(tmp_path):
        path.unlink()
    (tmp_path / "run" / "model_final.pth").unlink()
    (tmp_path / "run" / "last_checkpoint").write_text("model_0000009.pth")
    assert_same(run("run", *options, "--resume"), whole)


def test_a_run_whose_pixels_never_come_again_is_told(run, tmp_path):
    run("run", "train.max_iter=3", "dataloader.evaluator=null")
    assert "found less than it computed" in (tmp_path / "run" / "log.txt").read_text()


@pytest.mark.parametrize(
    "options, words",
    [
        (["train.feature_cache.enabled=true"], "no TimmBackbone"),
        (["train.feature_cache={enabled:true,max_gb:0}"], "max_gb"),
        (["train.feature_cache={enabled:true,dtype:float16}"], "bfloat16"),
    ],
)
def test_what_cannot_be_kept_is_refused_in_a_line(train, capfd, options, words):
    status, _ = train("run", *options)
    stderr = capfd.readouterr().err.strip()
    assert status == 2 and stderr.count("\n") == 0 and words in stderr
