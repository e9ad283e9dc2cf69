"""The training step: accumulation equals the large batch, broken losses end the run, rates follow the schedule."""

import math
import os
import re
import signal
import threading

import pytest
import torch
from fvcore.common.param_scheduler import CosineParamScheduler, MultiStepParamScheduler
from omegaconf import OmegaConf
from torch import nn

from dinov2_detrex.config.loading import load
from dinov2_detrex.config.train_options import ScaleLrOptions, ScaleRule
from dinov2_detrex.runtime.errors import UserError
from dinov2_detrex.training import checkpoint, failures
from dinov2_detrex.training.errors import TrainingDiverged
from dinov2_detrex.training.lr import LearningRate, scale_learning_rates
from dinov2_detrex.training.trainer import Trainer


class Fields(list):
    """Stands for Instances: all that a trainer asks is how many boxes there are."""


class SumOverBoxes(nn.Module):
    """A loss as DETR's: a sum over boxes, divided by their number in the batch, at least 1."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.tensor([1.0, -2.0]))

    def forward(self, batch):
        boxes = [value for image in batch for value in image["instances"]]
        count = max(len(boxes), 1)
        return {
            "loss_a": sum(((self.w[0] * b - 1) ** 2 for b in boxes), 0 * self.w[0]) / count,
            "loss_b": sum(((self.w[1] + b) ** 2 for b in boxes), 0 * self.w[1]) / count,
        }


class MeanOverImages(nn.Module):
    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.tensor([1.0, -2.0]))

    def forward(self, batch):
        return {
            "loss": torch.stack([(self.w * (1 + len(image["instances"])) - 1).square().sum() for image in batch]).mean()
        }


BATCH = [{"instances": Fields(values)} for values in ([1.0, 2.0, 0.5], [], [3.0], [0.1, 0.2], [], [])]


def one_step(model, loader, **options):
    trainer = Trainer(model, loader, torch.optim.SGD(model.parameters(), lr=0.1), **options)
    trainer.train(0, 1)
    return model.w.detach(), {name: value for name, (value, _) in trainer.storage.latest().items()}


@pytest.mark.parametrize(
    "model, weight_by", [(SumOverBoxes, "boxes"), (MeanOverImages, "images")], ids=["over boxes", "over images"]
)
@pytest.mark.parametrize("micro_batches", [2, 3, 6])
def test_accumulated_micro_batches_equal_the_large_batch(model, weight_by, micro_batches):
    size = len(BATCH) // micro_batches
    pieces = [BATCH[i : i + size] for i in range(0, len(BATCH), size)]
    expected, expected_scalars = one_step(model(), [BATCH])
    found, scalars = one_step(model(), pieces, micro_batches=micro_batches, weight_by=weight_by)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)
    assert scalars["total_loss"] == pytest.approx(expected_scalars["total_loss"], rel=1e-6)


def test_accumulation_of_a_batch_without_boxes_trains():
    empty = [[{"instances": Fields()}], [{"instances": Fields()}]]
    found, scalars = one_step(SumOverBoxes(), empty, micro_batches=2)
    assert torch.equal(found, torch.tensor([1.0, -2.0])) and scalars["total_loss"] == 0


def test_a_detector_with_one_loss_still_logs_it():
    _, scalars = one_step(MeanOverImages(), [BATCH])
    assert scalars["loss"] == scalars["total_loss"]


class Scripted(nn.Module):
    """Gives the losses it is told to."""

    def __init__(self, losses):
        super().__init__()
        self.w, self.script = nn.Parameter(torch.ones(())), iter(losses)

    def forward(self, batch):
        return {"loss_a": self.w * next(self.script), "loss_b": self.w * 0.5}


def run_script(losses, **options):
    model = Scripted(losses)
    batches = [[{"file_name": f"image{i}.jpg", "instances": []}] for i in range(len(losses))]
    trainer = Trainer(model, batches, torch.optim.SGD(model.parameters(), lr=0.0), **options)
    trainer.train(0, len(losses))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_ends_the_run_with_iteration_and_images(value):
    with pytest.raises(TrainingDiverged) as caught:
        run_script([1.0, 1.0, value, 1.0])
    assert all(word in str(caught.value) for word in ("iteration 2", "not finite", "loss_a", "image2.jpg"))
    assert "image1.jpg" not in str(caught.value)


def test_an_exploding_loss_ends_the_run_and_an_ordinary_rise_does_not():
    steady = [1.0 + 0.1 * (i % 3) for i in range(30)]
    run_script([*steady, 50.0])
    with pytest.raises(TrainingDiverged, match=r"iteration 30.*100 times its median.*image30.jpg"):
        run_script([*steady, 500.0])


def test_the_weights_are_not_touched_by_the_step_that_broke():
    model = Scripted([1.0, math.nan])
    trainer = Trainer(model, [[{}], [{}]], torch.optim.SGD(model.parameters(), lr=0.25))
    with pytest.raises(TrainingDiverged):
        trainer.train(0, 2)
    assert model.w == 1 - 0.25 * 1.5 and trainer.completed == 1 and not trainer.finished


def test_a_nan_in_a_run_names_the_last_good_checkpoint_and_keeps_it(train, capfd):
    status, folder = train("run", "model.fail_at=6", "train.checkpointer.period=4", "train.eval_period=0")
    stderr = capfd.readouterr().err.strip()
    assert status == 3 and stderr.count("\n") == 0
    assert "iteration 6" in stderr and str(folder / "model_0000003.pth") in stderr and "/train/" in stderr
    assert not (folder / "model_final.pth").exists()
    assert train("run", "--resume", "train.eval_period=0")[0] == 0  # without the cause it goes on from there
    assert checkpoint.read(folder / "model_final.pth")["iteration"] == 11


def test_running_out_of_memory_says_which_overrides_help():
    cfg = load("projects/dino_dinov2/configs/COCO/dino_dinov2_b_12ep.py", [])
    for error in (
        torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB"),
        RuntimeError("can't allocate memory"),
    ):
        explained = failures.explain(error, cfg)
        assert isinstance(explained, UserError) and "train.accumulate.steps" in str(explained)
    assert failures.explain(RuntimeError("a bug"), cfg) is None


def killed_while_fetching(seconds):
    """What is told of a loader worker that is killed so long after its first batch."""
    batches = iter(torch.utils.data.DataLoader(torch.arange(10_000_000), num_workers=1))
    next(batches)
    with pytest.raises(RuntimeError) as error, failures.naming_killed_workers():
        threading.Timer(seconds, os.kill, (batches._workers[0].pid, signal.SIGKILL)).start()
        for _ in batches:
            pass
    return str(failures.explain(error.value, OmegaConf.create({})))


def test_a_killed_loader_worker_is_told_also_where_its_connection_broke_before_the_system_says_so():
    """Without the wait for the system, a third to two thirds of these moments give a lost connection."""
    for moment in range(12):
        told = killed_while_fetching(moment / 1000)
        assert "a loader worker was killed" in told and "dataloader.train.num_workers" in told, told


def test_a_lost_connection_stays_one_where_no_worker_was_killed():
    with pytest.raises(ConnectionResetError, match="another machine"), failures.naming_killed_workers():
        raise ConnectionResetError("another machine")


def advised(cfg):
    """(key, value) of the overrides that are advised against a lack of memory."""
    return re.findall(r"([a-z_.]+\.[a-z_.]+)=([a-z0-9]*)", failures.memory_advice(cfg))


@pytest.mark.parametrize("recipe", ["COCO/dino_dinov2_b_12ep", "custom/dino_dinov2_s_custom"])
def test_the_overrides_that_the_advice_names_exist_and_are_not_advised_again(recipe):
    path = f"projects/dino_dinov2/configs/{recipe}.py"
    pairs = advised(load(path, []))
    assert len(pairs) >= 7
    cfg = load(path, [f"{key}={value or 64}" for key, value in pairs])  # raises on an unknown key
    assert cfg.model.transformer.encoder.use_checkpoint is True and cfg.dataloader.image.short_sides[-1] == 64
    assert {value for _, value in advised(cfg)} == {""}


def test_the_advice_names_no_key_that_another_detector_lacks():
    cfg = OmegaConf.create(
        {"model": {"roi_heads": {"batch_size_per_image": 512}}, "train": {"amp": {"enabled": False}}}
    )
    assert [key for key, _ in advised(cfg)] == ["train.amp.enabled", "model.roi_heads.batch_size_per_image"]
    assert failures.memory_advice(OmegaConf.create({})) == "use smaller images or batches"


class Clock:
    """What a hook sees of a trainer."""

    def __init__(self, max_iter):
        self.iter, self.max_iter = 0, max_iter


@pytest.mark.parametrize(
    "multiplier", [CosineParamScheduler(1.0, 0.0), MultiStepParamScheduler([1, 0.1], milestones=[8, 10])]
)
def test_each_iteration_has_the_scheduled_rate_of_its_group_from_wherever_the_run_starts(multiplier):
    parameters = [{"params": [nn.Parameter(torch.ones(1))], "lr": lr} for lr in (0.5, 0.05)]
    optimizer = torch.optim.SGD(parameters, lr=1.0)
    hook = LearningRate(optimizer, multiplier)
    hook.trainer = Clock(10)
    for i in (0, 3, 8, 9, 1):
        hook.trainer.iter = i
        hook.before_step()
        expected = (
            0.5 * (1 + math.cos(math.pi * i / 10)) if isinstance(multiplier, CosineParamScheduler) else 0.1 ** (i >= 8)
        )
        assert [g["lr"] for g in optimizer.param_groups] == pytest.approx([0.5 * expected, 0.05 * expected])


@pytest.mark.parametrize("rule, factor", [("linear", 4.0), ("sqrt", 2.0)])
def test_rates_are_scaled_for_the_batch_when_asked(rule, factor):
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1)
    options = ScaleLrOptions(reference_batch_size=16, rule=ScaleRule(rule))
    assert scale_learning_rates(optimizer, 64, options) == factor
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.1 * factor)
    assert scale_learning_rates(optimizer, 64, ScaleLrOptions(rule=ScaleRule(rule))) == 1.0
