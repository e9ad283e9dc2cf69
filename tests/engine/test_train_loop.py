"""The training loop: its order, what it keeps, how it fails, and what its hooks do when."""

import json

import pytest
import torch
from detectron2.engine import HookBase, IterationTimer, PeriodicWriter, TrainerBase, default_writers, hooks
from detectron2.utils.events import EventWriter, get_event_storage


class Steps(TrainerBase):
    """Each step puts a loss, the iteration's number; iteration `fails_at` raises."""

    def __init__(self, fails_at: int | None = None):
        super().__init__()
        self.fails_at = fails_at

    def run_step(self):
        if self.iter == self.fails_at:
            raise ArithmeticError("this step fails")
        self.storage.put_scalar("total_loss", self.iter)
        self.after_backward()


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
    trainer = Steps()
    trainer.register_hooks([Recorder("a", log), None, Recorder("b", log)])
    trainer.train(5, 7)
    step = [(m, n) for m in ("before_step", "after_backward", "after_step") for n in "ab"]
    expected = [(5, "before_train", "a"), (5, "before_train", "b")]
    expected += [(i, moment, name) for i in (5, 6) for moment, name in step]
    assert log == expected + [(7, "after_train", "a"), (7, "after_train", "b")]
    assert (trainer.iter, trainer.start_iter, trainer.max_iter) == (7, 5, 7)


def test_what_is_no_hook_is_refused_and_the_trainer_is_not_kept_alive():
    trainer = Steps()
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
    trainer = Steps(fails_at=2)
    trainer.register_hooks([Recorder("a", log)])
    with pytest.raises(ArithmeticError):
        trainer.train(0, 3)
    assert log[-1] == (2, "after_train", "a") and trainer.iter < trainer.max_iter
    assert messages  # the exception is logged as well


@pytest.mark.fallback("detectron2")
def test_a_finished_run_that_is_resumed_ends_where_it_ended():
    trainer = Steps()
    trainer.train(4, 4)
    assert trainer.iter == 4


class Counter(HookBase):
    def __init__(self, count=0):
        self.count = count

    def after_step(self):
        self.count += 1

    def state_dict(self):
        return {"count": self.count}

    def load_state_dict(self, state):
        self.count = state["count"]


def test_hooks_keep_their_state():
    trainer = Steps()
    trainer.register_hooks([HookBase(), Counter(), Counter(100)])
    trainer.train(0, 3)
    state = trainer.state_dict()
    assert state == {"iteration": 3, "hooks": {"Counter": {"count": 3}}}
    other, hook = Steps(), Counter()
    other.register_hooks([hook])
    other.load_state_dict(state)
    assert hook.count == 3 and other.iter == 3
    assert "hooks" not in Steps().state_dict()


def test_the_state_of_a_hook_that_is_not_registered_is_warned_about(logged):
    messages = logged("detectron2.engine.train_loop")
    Steps().load_state_dict({"iteration": 3, "hooks": {"Counter": {"count": 3}}})
    assert any("Counter" in message for message in messages)


# --- hooks ------------------------------------------------------------------------------------------------------


def latest_after(hook_list, max_iter: int, start: int = 0) -> dict:
    """The scalars at the end of a run with these hooks."""
    trainer = Steps()
    trainer.register_hooks(hook_list)
    trainer.train(start, max_iter)
    return trainer.storage.latest()


def test_times_are_taken_from_the_third_iteration_on():
    assert "time" not in latest_after([IterationTimer()], 2)
    seconds, iteration = latest_after([IterationTimer()], 4)["time"]
    assert 0 < seconds < 5 and iteration == 3


@pytest.mark.fallback("detectron2")
def test_the_speed_line_counts_the_iterations_that_were_timed(logged):
    messages = logged("detectron2.engine.hooks")
    latest_after([IterationTimer()], 12, start=2)
    assert "8 iterations" in messages[0] and "10 iterations" in messages[1]


class CountingWriter(EventWriter):
    def __init__(self):
        self.written, self.closed = [], 0

    def write(self):
        self.written.append(get_event_storage().iter)

    def close(self):
        self.closed += 1


def test_writers_write_every_period_and_at_the_end_and_are_closed():
    writer = CountingWriter()
    latest_after([PeriodicWriter([writer], period=3)], 7)
    assert writer.written == [2, 5, 6, 7] and writer.closed == 1


class ImageWriter(EventWriter):
    def __init__(self):
        self.images = []

    def write(self):
        self.images += [name for name, *_ in get_event_storage()._images]


class PutImage(HookBase):
    def after_step(self):
        self.trainer.storage.put_image(f"image{self.trainer.iter}", torch.zeros(3, 2, 2))


@pytest.mark.fallback("detectron2")
def test_every_writer_gets_the_images_once():
    writers = [ImageWriter(), ImageWriter()]
    latest_after([PutImage(), PeriodicWriter(writers, period=2)], 4)
    assert [writer.images for writer in writers] == [["image0", "image1", "image2", "image3"]] * 2


class PutResult(HookBase):
    def after_train(self):
        self.trainer.storage.put_scalar("bbox/AP", 1.0, smoothing_hint=False)


def test_the_default_writers_make_a_folder_with_metrics(tmp_path):
    folder = tmp_path / "run"
    latest_after([IterationTimer(), PutResult(), PeriodicWriter(default_writers(str(folder), 6), period=2)], 6)
    rows = [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]
    assert [row["iteration"] for row in rows] == [1, 3, 5, 6]
    assert rows[-1]["bbox/AP"] == 1.0 and {"total_loss", "time", "eta_seconds"} <= rows[2].keys()
    assert list(folder.glob("events.out.tfevents.*"))


def test_hooks_are_at_hand_as_a_module():
    assert hooks.IterationTimer is IterationTimer and hooks.PeriodicWriter is PeriodicWriter
