"""The training loop: its order, what it records and keeps, how it fails, and what the hooks do when."""

import json
import math

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.engine import (
    AMPTrainer,
    BestCheckpointer,
    CallbackHook,
    EvalHook,
    HookBase,
    IterationTimer,
    LRScheduler,
    PeriodicCheckpointer,
    PeriodicWriter,
    SimpleTrainer,
    TrainerBase,
    default_writers,
    hooks,
)
from detectron2.utils.events import EventWriter, get_event_storage
from fvcore.common.param_scheduler import ConstantParamScheduler, MultiStepParamScheduler
from torch import nn


class Losses(nn.Module):
    """A linear layer with two named losses; batches are (B, 3) tensors."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(3, 2)

    def forward(self, batch):
        y = self.linear(batch)
        return {"loss_a": y.square().mean(), "loss_b": (y[:, 0] - 1).abs().mean()}


def batches(start: int = 0, end: int = 10_000):
    """Batch i is a function of i alone."""
    for i in range(start, end):
        yield torch.randn(4, 3, generator=torch.Generator().manual_seed(i))


def a_trainer(model=None, loader=None, **kwargs) -> SimpleTrainer:
    model = Losses() if model is None else model
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    return SimpleTrainer(model, batches() if loader is None else loader, optimizer, **kwargs)


class Recorder(HookBase):
    def __init__(self, name: str, log: list):
        self.name, self.log = name, log

    def _note(self, moment):
        self.log.append((self.trainer.iter, moment, self.name))

    def before_train(self):
        self._note("before_train")

    def after_train(self):
        self._note("after_train")

    def before_step(self):
        self._note("before_step")

    def after_backward(self):
        self._note("after_backward")

    def after_step(self):
        self._note("after_step")


# --- the loop ---------------------------------------------------------------------------------------------------


def test_hooks_are_called_in_their_order_around_each_step():
    log = []
    trainer = a_trainer()
    trainer.register_hooks([Recorder("a", log), None, Recorder("b", log)])
    trainer.train(5, 7)
    step = [(m, n) for m in ("before_step", "after_backward", "after_step") for n in "ab"]
    expected = [(5, "before_train", "a"), (5, "before_train", "b")]
    expected += [(i, moment, name) for i in (5, 6) for moment, name in step]
    assert log == expected + [(7, "after_train", "a"), (7, "after_train", "b")]
    assert (trainer.iter, trainer.start_iter, trainer.max_iter) == (7, 5, 7)


def test_what_is_no_hook_is_refused_and_the_trainer_is_not_kept_alive():
    trainer = a_trainer()
    with pytest.raises(AssertionError):
        trainer.register_hooks([object()])
    hook = HookBase()
    trainer.register_hooks([hook])
    del trainer
    with pytest.raises(ReferenceError):
        _ = hook.trainer.iter


def test_a_step_is_abstract_in_the_base():
    with pytest.raises(NotImplementedError):
        TrainerBase().train(0, 1)


def test_after_train_runs_after_a_failure_with_the_iteration_that_failed(logged):
    messages = logged("detectron2.engine.train_loop")
    log = []
    trainer = a_trainer(loader=batches(0, 2))  # two batches for three iterations
    trainer.register_hooks([Recorder("a", log)])
    with pytest.raises(StopIteration):
        trainer.train(0, 3)
    assert log[-1] == (2, "after_train", "a") and trainer.iter < trainer.max_iter
    assert any("Exception during training" in message for message in messages)


@pytest.mark.fallback("detectron2")
def test_a_finished_run_that_is_resumed_ends_where_it_ended():
    trainer = a_trainer()
    trainer.train(4, 4)
    assert trainer.iter == 4


def test_the_steps_are_those_of_a_plain_loop():
    trainer = a_trainer()
    trainer.train(0, 5)
    model = Losses()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    for batch in batches(0, 5):
        losses = model(batch)
        optimizer.zero_grad()
        (losses["loss_a"] + losses["loss_b"]).backward()
        optimizer.step()
    assert torch.equal(trainer.model.linear.weight, model.linear.weight)


@pytest.mark.parametrize("kwargs", [{}, {"zero_grad_before_forward": True}, {"async_write_metrics": True}])
def test_the_recorded_scalars_are_the_losses_their_sum_and_the_data_times(kwargs):
    trainer = a_trainer(**kwargs)
    seen = []
    trainer.register_hooks([CallbackHook(after_train=lambda t: seen.append(dict(t.storage.latest())))])
    trainer.train(0, 1)
    scalars = {name: value for name, (value, _) in seen[0].items()}
    assert set(scalars) == {"loss_a", "loss_b", "total_loss", "data_time", "rank_data_time"}
    expected = Losses()(next(batches()))
    assert scalars["loss_a"] == pytest.approx(expected["loss_a"].item())
    assert scalars["total_loss"] == pytest.approx(sum(expected.values()).item())


def test_a_single_tensor_is_the_total_loss():
    class Single(Losses):
        def forward(self, batch):
            return super().forward(batch)["loss_a"]

    trainer = a_trainer(Single(), gather_metric_period=2)
    seen = []
    trainer.register_hooks([CallbackHook(after_step=lambda t: seen.append(set(t.storage.latest())))])
    trainer.train(0, 2)
    assert seen == [set(), {"total_loss", "data_time", "rank_data_time"}]


@pytest.mark.parametrize("asynchronous", [False, pytest.param(True, marks=pytest.mark.fallback("detectron2"))])
def test_a_loss_that_is_not_finite_ends_the_run_and_names_the_iteration(asynchronous):
    class Explodes(Losses):
        def forward(self, batch):
            factor = math.nan if get_event_storage().iter == 2 else 1.0
            return {name: loss * factor for name, loss in super().forward(batch).items()}

    trainer = a_trainer(Explodes(), async_write_metrics=asynchronous)
    with pytest.raises(FloatingPointError, match=r"iteration=2(?s:.*)loss_a"):
        trainer.train(0, 5)


def test_a_model_that_was_set_to_eval_is_not_trained():
    trainer = a_trainer()
    trainer.model.eval()
    with pytest.raises(AssertionError):
        trainer.train(0, 1)


def test_the_loader_can_be_replaced():
    trainer = a_trainer(loader=batches(0, 1))
    trainer.register_hooks([CallbackHook(after_step=lambda t: t.reset_data_loader(lambda: batches(t.iter + 1)))])
    trainer.train(0, 3)
    other = a_trainer()
    other.train(0, 3)
    assert torch.equal(trainer.model.linear.weight, other.model.linear.weight)


@pytest.mark.filterwarnings("ignore:.*GradScaler is enabled")
@pytest.mark.skipif(torch.cuda.is_available(), reason="about machines without CUDA")
def test_automatic_mixed_precision_asks_for_cuda():
    model = Losses()
    with pytest.raises(AssertionError, match="CUDA"):
        AMPTrainer(model, batches(), torch.optim.SGD(model.parameters(), lr=0.1)).train(0, 1)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_automatic_mixed_precision_trains_and_keeps_its_scale():
    model = Losses().cuda()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    trainer = AMPTrainer(model, (batch.cuda() for batch in batches()), optimizer, log_grad_scaler=True)
    before = model.linear.weight.clone()
    trainer.train(0, 3)
    assert not torch.equal(model.linear.weight, before)
    assert trainer.state_dict()["grad_scaler"]["scale"] == trainer.storage.latest()["[metric]grad_scaler"][0]


# --- states and resuming ----------------------------------------------------------------------------------------


def a_run(folder, max_iter: int, resume: bool = False, stop_after: int | None = None) -> SimpleTrainer:
    """A run with a schedule and checkpoints; `stop_after` raises after that iteration."""
    trainer = a_trainer()
    checkpointer = DetectionCheckpointer(trainer.model, str(folder), trainer=trainer)
    schedule = MultiStepParamScheduler([1, 0.1], milestones=[6, 8])

    def stop(trainer):
        if trainer.iter == stop_after:
            raise KeyboardInterrupt

    trainer.register_hooks(
        [LRScheduler(scheduler=schedule), PeriodicCheckpointer(checkpointer, 3), CallbackHook(after_step=stop)]
    )
    start = checkpointer.resume_or_load("", resume=resume).get("iteration", -1) + 1
    trainer.data_loader = batches(start)
    trainer.train(start, max_iter)
    return trainer


def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path):
    for name in ("whole", "parts"):
        (tmp_path / name).mkdir()
    whole = a_run(tmp_path / "whole", 8)
    with pytest.raises(KeyboardInterrupt):
        a_run(tmp_path / "parts", 8, stop_after=6)  # the last checkpoint is of iteration 5
    resumed = a_run(tmp_path / "parts", 8, resume=True)
    assert resumed.start_iter == 6
    assert torch.equal(whole.model.linear.weight, resumed.model.linear.weight)
    assert whole.optimizer.param_groups[0]["lr"] == resumed.optimizer.param_groups[0]["lr"]


class Counter(HookBase):
    def __init__(self, count=0):
        self.count = count

    def after_step(self):
        self.count += 1

    def state_dict(self):
        return {"count": self.count}

    def load_state_dict(self, state):
        self.count = state["count"]


def test_hooks_keep_their_state(logged):
    trainer = a_trainer()
    trainer.register_hooks([HookBase(), Counter(), Counter(100)])
    trainer.train(0, 3)
    state = trainer.state_dict()
    assert state["iteration"] == 3 and state["hooks"] == {"Counter": {"count": 3}} and "optimizer" in state
    other, hook = a_trainer(), Counter()
    other.register_hooks([hook])
    other.load_state_dict(state)
    assert hook.count == 3 and other.iter == 3
    messages = logged("detectron2.engine.train_loop")
    a_trainer().load_state_dict(state)
    assert any("Counter" in message for message in messages)
    assert "hooks" not in a_trainer().state_dict()


# --- hooks ------------------------------------------------------------------------------------------------------


def latest_after(hook_list, max_iter: int, start: int = 0) -> dict:
    """The scalars at the end of a run with these hooks."""
    trainer, seen = a_trainer(), {}
    trainer.register_hooks([*hook_list, CallbackHook(after_train=lambda t: seen.update(t.storage.latest()))])
    trainer.train(start, max_iter)
    return seen


def test_times_are_taken_from_the_third_iteration_on(logged):
    messages = logged("detectron2.engine.hooks")
    assert "time" not in latest_after([IterationTimer()], 2)
    seconds, iteration = latest_after([IterationTimer()], 4)["time"]
    assert 0 < seconds < 5 and iteration == 3
    assert any("Total training time" in message for message in messages)


@pytest.mark.fallback("detectron2")
def test_the_speed_line_counts_the_iterations_that_were_timed(logged):
    messages = logged("detectron2.engine.hooks")
    latest_after([IterationTimer()], 12, start=2)
    assert "8 iterations" in messages[0] and "10 iterations" in messages[1]


def test_the_recorded_rate_is_that_of_the_largest_group():
    trainer = a_trainer()
    lone, pair = nn.Parameter(torch.zeros(1)), [nn.Parameter(torch.zeros(1)) for _ in range(2)]
    optimizer = torch.optim.SGD([{"params": [lone], "lr": 1.0}, {"params": pair, "lr": 0.5}], lr=1.0)
    rates = []
    trainer.register_hooks(
        [
            CallbackHook(before_step=lambda t: optimizer.step()),  # torch warns of schedules whose optimizer rests
            LRScheduler(optimizer, MultiStepParamScheduler([1, 0.1], milestones=[2, 3])),
            CallbackHook(after_step=lambda t: rates.append(t.storage.latest()["lr"][0])),
        ]
    )
    trainer.train(0, 3)
    assert rates == pytest.approx([0.5, 0.5, 0.05])
    assert trainer.storage.smoothing_hints()["lr"] is False


def test_a_torch_scheduler_is_stepped_after_each_iteration():
    trainer = a_trainer()
    scheduler = torch.optim.lr_scheduler.StepLR(trainer.optimizer, 1, gamma=0.5)
    trainer.register_hooks([LRScheduler(scheduler=scheduler)])
    trainer.train(0, 3)
    assert trainer.optimizer.param_groups[0]["lr"] == pytest.approx(0.1 * 0.5**3)


@pytest.mark.fallback("detectron2")
def test_a_constant_schedule_survives_the_step_after_the_last_iteration():
    assert latest_after([LRScheduler(scheduler=ConstantParamScheduler(1.0))], 3)["lr"] == (0.1, 2)


def evaluations(max_iter: int, period: int, **kwargs) -> list[int]:
    """The iterations that the evaluation function was called at."""
    trainer, called = a_trainer(), []
    trainer.register_hooks([EvalHook(period, lambda: called.append(trainer.iter), **kwargs)])
    trainer.train(0, max_iter)
    return called


def test_evaluation_runs_every_period_and_once_at_the_end():
    assert evaluations(7, 3) == [2, 5, 7]
    assert evaluations(6, 3) == [2, 6]  # not twice at the end
    assert evaluations(6, 0) == [6]
    assert evaluations(6, 3, eval_after_train=False) == [2]


def test_results_are_flattened_to_unsmoothed_scalars():
    scalars = latest_after([EvalHook(0, lambda: {"bbox": {"AP": 5, "AP-cat": math.nan}, "time": 1.5})], 2)
    assert scalars["bbox/AP"] == (5.0, 2) and math.isnan(scalars["bbox/AP-cat"][0]) and scalars["time"] == (1.5, 2)


@pytest.mark.parametrize("results, error", [([1], AssertionError), ({"bbox": {"AP": "high"}}, ValueError)])
def test_results_that_are_no_numbers_are_refused(results, error):
    with pytest.raises(error):
        latest_after([EvalHook(0, lambda: results)], 1)


def test_no_evaluation_after_a_run_that_failed_early():
    called = []
    trainer = a_trainer(loader=batches(0, 2))
    trainer.register_hooks([EvalHook(0, lambda: called.append(1))])
    with pytest.raises(StopIteration):
        trainer.train(0, 5)
    assert called == []


@pytest.mark.fallback("detectron2")
def test_no_evaluation_when_the_very_last_iteration_failed():
    called = []
    trainer = a_trainer(loader=batches(0, 2))
    trainer.register_hooks([EvalHook(0, lambda: called.append(1))])
    with pytest.raises(StopIteration):
        trainer.train(0, 3)
    assert called == []


def best_run(tmp_path, results, mode="max") -> list[int]:
    """The iterations of the best checkpoints of a run whose evaluations give `results` in turn."""
    trainer, saved = a_trainer(), []
    checkpointer = DetectionCheckpointer(trainer.model, str(tmp_path), trainer=trainer)
    values = iter(results)

    def note(trainer):
        path = tmp_path / "model_best.pth"
        if path.exists():
            saved.append(torch.load(path, weights_only=True)["iteration"])

    trainer.register_hooks(
        [
            PeriodicCheckpointer(checkpointer, 1),
            EvalHook(2, lambda: {"bbox": {"AP": next(values)}}),
            BestCheckpointer(2, checkpointer, "bbox/AP", mode=mode),
            CallbackHook(after_step=note, after_train=note),
        ]
    )
    trainer.train(0, 2 * len(results))
    return sorted(set(saved))


def test_the_best_checkpoint_is_that_of_the_best_metric(tmp_path):
    for mode, results, expected in (("max", [math.nan, 3.0, 2.0, 5.0], [3, 8]), ("min", [3.0, 4.0, 2.0], [1, 6])):
        (tmp_path / mode).mkdir()
        assert best_run(tmp_path / mode, results, mode=mode) == expected


@pytest.mark.fallback("detectron2")
def test_the_best_checkpoint_is_not_the_one_to_resume_from(tmp_path):
    best_run(tmp_path, [1.0, 2.0])
    assert (tmp_path / "last_checkpoint").read_text() == "model_final.pth"


def test_a_metric_that_is_missing_is_warned_about_and_a_wrong_mode_refused(tmp_path, logged):
    messages = logged("detectron2.engine.hooks")
    checkpointer = DetectionCheckpointer(Losses(), str(tmp_path))
    latest_after([BestCheckpointer(1, checkpointer, "no/such")], 2)
    assert any("no/such" in message for message in messages) and list(tmp_path.iterdir()) == []
    with pytest.raises(AssertionError):
        BestCheckpointer(1, checkpointer, "a", mode="best")


class CountingWriter(EventWriter):
    def __init__(self):
        self.written, self.closed, self.images = [], 0, []

    def write(self):
        storage = get_event_storage()
        self.written.append(storage.iter)
        self.images += [name for name, *_ in storage._images]

    def close(self):
        self.closed += 1


def test_writers_write_every_period_and_at_the_end_and_are_closed():
    writer = CountingWriter()
    latest_after([PeriodicWriter([writer], period=3)], 7)
    assert writer.written == [2, 5, 6, 7] and writer.closed == 1


@pytest.mark.fallback("detectron2")
def test_every_writer_gets_the_images_once():
    writers = [CountingWriter(), CountingWriter()]
    put = CallbackHook(after_step=lambda t: t.storage.put_image(f"image{t.iter}", torch.zeros(3, 2, 2)))
    latest_after([put, PeriodicWriter(writers, period=2)], 4)
    assert [writer.images for writer in writers] == [["image0", "image1", "image2", "image3"]] * 2


def test_the_default_writers_make_a_folder_with_metrics(tmp_path):
    folder = tmp_path / "run"
    evaluation = EvalHook(0, lambda: {"bbox": {"AP": 1.0}})
    latest_after([IterationTimer(), evaluation, PeriodicWriter(default_writers(str(folder), 6), period=2)], 6)
    rows = [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]
    assert [row["iteration"] for row in rows] == [1, 3, 5, 6]
    assert rows[-1]["bbox/AP"] == 1.0 and {"total_loss", "loss_a", "time", "eta_seconds"} <= rows[2].keys()
    assert list(folder.glob("events.out.tfevents.*"))


def test_hooks_are_at_hand_as_a_module():
    assert hooks.EvalHook is EvalHook and hooks.LRScheduler is LRScheduler
