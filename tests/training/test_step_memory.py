"""What a step is told to take is what it takes, and the batch that is picked is the largest that fits."""

import pytest
import torch
from detectron2.config import instantiate

from dinov2_detrex.cli import run_command
from dinov2_detrex.config.loading import load, train_options
from dinov2_detrex.config.pretrained import without_pretrained
from dinov2_detrex.data.random_records import random_inputs
from dinov2_detrex.runtime.allocations import peak_bytes
from dinov2_detrex.runtime.errors import UserError
from dinov2_detrex.runtime.pretended import OLDEST_TORCH, pretends_here
from dinov2_detrex.training import batch_size
from dinov2_detrex.training.muon import hidden_matrices
from dinov2_detrex.training.optimizer import build_optimizer, gradient_clipping
from dinov2_detrex.training.precision import Precision, choose_dtype
from dinov2_detrex.training.step_memory import StepMemory, largest_batch, step_memory, take_step

CPU = torch.device("cpu")
RECIPE = "dino_dinov2_tiny_shapes"


def measured(cfg, batch) -> int:
    """Most that torch's allocator holds for the model and two steps of it."""
    options, held = train_options(cfg), {}

    def build_and_step() -> None:
        held["model"] = model = instantiate(without_pretrained(cfg).model).train()
        optimizer = build_optimizer(cfg.optimizer, model)
        precision = Precision(CPU, choose_dtype(options.amp, CPU))
        for _ in range(2):
            take_step(model, batch, optimizer, precision, gradient_clipping(options.clip_grad))

    return peak_bytes(build_and_step, CPU)


@pytest.mark.parametrize(
    "overrides", [(), ("train.amp.enabled=true", "train.amp.dtype=bfloat16")], ids=["fp32", "bf16"]
)
@pytest.mark.parametrize("images", [2, pytest.param(8, marks=pytest.mark.slow)])
def test_the_peak_that_is_told_is_the_measured_one_within_a_tenth(images, overrides):
    cfg = load(RECIPE, ["train.device=cpu", *overrides])
    batch = random_inputs((128, 160), images, 3)
    assert step_memory(cfg, batch, CPU).peak == pytest.approx(measured(cfg, batch), rel=0.1)


@pytest.mark.skipif(not pretends_here(), reason=f"needs torch {OLDEST_TORCH}")
def test_an_average_and_the_optimizers_state_are_counted():
    batch = random_inputs((64, 64), 1, 3)
    plain, averaged = (
        step_memory(load(RECIPE, [f"train.model_ema.enabled={on}"]), batch, torch.device("cuda"))
        for on in (False, True)
    )
    weights = plain.parts["parameters"]
    assert averaged.peak - plain.peak == pytest.approx(weights, rel=0.05)
    matrices = hidden_matrices(instantiate(load(RECIPE, ["train.device=cpu"]).model))  # one state each, by Muon
    assert plain.parts["optimizer"] == pytest.approx(2 * weights - 4 * sum(m.numel() for m in matrices), rel=0.05)
    adamw = ["optimizer._target_=torch.optim.AdamW", "~optimizer.momentum"]
    by_adamw = step_memory(load(RECIPE, adamw), batch, torch.device("cuda"))
    assert by_adamw.parts["optimizer"] == pytest.approx(2 * weights, rel=0.05)


@pytest.mark.parametrize("usable, images", [(50, 0), (110, 1), (119, 1), (120, 2), (1005, 90), (10**9, 1024)])
def test_the_largest_batch_is_found_with_few_questions(usable, images):
    asked = []

    def peak_of(number: int) -> int:
        asked.append(number)
        return 100 + 10 * number

    assert largest_batch(peak_of, usable) == images
    assert len(asked) <= 4 or images == 1024


def test_a_bent_line_is_followed_to_the_largest_batch():
    assert largest_batch(lambda n: n * n, 1000) == 31
    assert largest_batch(lambda n: 100 if n < 7 else 1000, 500) == 6


@pytest.fixture
def by_arithmetic(monkeypatch):
    """Every image takes 1 GiB beside 2 GiB for the model, of 10."""
    told = []

    def step_memory(cfg, batch, device):
        told.append((tuple(batch[0]["image"].shape[-2:]), len(batch[0]["instances"])))
        return StepMemory((2 + len(batch)) * 2**30, {})

    monkeypatch.setattr(batch_size, "step_memory", step_memory)
    monkeypatch.setattr(batch_size, "usable_bytes", lambda device: 10 * 2**30)
    monkeypatch.setattr(batch_size, "largest_image", lambda train: ((96, 128), 5))
    return told


def test_auto_becomes_the_batch_that_fits_for_all_processes_and_micro_batches(by_arithmetic, capsys):
    overrides = [f"{batch_size.KEY}=auto", "train.accumulate.steps=3", "train.device=cpu"]
    settled = batch_size.settle_batch(RECIPE, overrides, num_processes=2, resume=False)
    assert settled == [*overrides[1:], f"{batch_size.KEY}={8 * 2 * 3}"]
    assert "8 images of 96 x 128 pixels with 5 boxes" in capsys.readouterr().out
    assert set(by_arithmetic) == {((96, 128), 5)}


def test_a_number_stays_and_the_last_word_counts(by_arithmetic):
    for overrides in ([], [f"{batch_size.KEY}=4"], [f"{batch_size.KEY}=auto", f"{batch_size.KEY}=4"]):
        assert batch_size.settle_batch(RECIPE, overrides, 1, resume=False) == overrides
    assert not by_arithmetic


def test_a_resumed_run_keeps_its_batch(by_arithmetic, tmp_path):
    (tmp_path / "config.yaml").write_text("dataloader: {train: {total_batch_size: 6}}\n")
    overrides = [f"{batch_size.KEY}=auto", f"train.output_dir={tmp_path}"]
    assert batch_size.settle_batch(RECIPE, overrides, 1, resume=True)[-1] == f"{batch_size.KEY}=6"
    assert not by_arithmetic


def test_where_not_one_image_fits_one_line_says_so(by_arithmetic, monkeypatch):
    monkeypatch.setattr(batch_size, "usable_bytes", lambda device: 2**30)
    with pytest.raises(UserError, match="not one of the images of 96 x 128 pixels"):
        batch_size.settle_batch(RECIPE, [f"{batch_size.KEY}=auto", "train.device=cpu"], 1, resume=False)


@pytest.mark.skipif(not pretends_here(), reason=f"needs torch {OLDEST_TORCH}")
def test_analyze_tells_the_memory_of_a_gpu_that_is_not_there(capsys):
    arguments = ["--config-file", RECIPE, "--device", "cuda", "--batch", "2", "--size", "64"]
    assert run_command("analyze", arguments) == 0
    output = capsys.readouterr().out
    assert output.startswith("2 images of 64 x 64 pixels (height x width) on cuda")
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in output.splitlines() if line.startswith("|")]
    sizes = {name: float(size.replace(",", "")) for name, size in rows[2:]}
    assert sizes.pop("peak") == pytest.approx(sum(sizes.values()), abs=0.1 * len(sizes))
