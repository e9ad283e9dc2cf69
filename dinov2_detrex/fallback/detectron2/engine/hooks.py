"""What goes on around the steps of a run: timing, learning rate, checkpoints, evaluation, writing."""

import datetime
import logging
import math
import operator
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from fvcore.common.param_scheduler import ParamScheduler

from ..checkpoint import Checkpointer
from ..checkpoint import PeriodicCheckpointer as _PeriodicCheckpointer
from ..evaluation.testing import flatten_results_dict
from ..left_out import refuse
from ..solver import LRMultiplier
from ..solver import LRScheduler as _LRScheduler
from ..utils import comm
from ..utils.events import EventStorage, EventWriter
from .train_loop import HookBase

__all__ = [
    "BestCheckpointer",
    "CallbackHook",
    "EvalHook",
    "IterationTimer",
    "LRScheduler",
    "PeriodicCheckpointer",
    "PeriodicWriter",
]
__getattr__ = refuse(__name__, "AutogradProfiler", "PreciseBN", "TorchMemoryStats", "TorchProfiler")

logger = logging.getLogger(__name__)


class CallbackHook(HookBase):
    """Calls functions of the trainer; None does nothing."""

    def __init__(
        self,
        *,
        before_train: Callable | None = None,
        after_train: Callable | None = None,
        before_step: Callable | None = None,
        after_step: Callable | None = None,
    ):
        self._callbacks = {
            "before_train": before_train,
            "after_train": after_train,
            "before_step": before_step,
            "after_step": after_step,
        }

    def _call(self, moment: str) -> None:
        if self._callbacks[moment] is not None:
            self._callbacks[moment](self.trainer)

    def before_train(self) -> None:
        self._call("before_train")

    def after_train(self) -> None:
        self._call("after_train")
        self._callbacks = dict.fromkeys(self._callbacks)  # the functions may refer back to the trainer

    def before_step(self) -> None:
        self._call("before_step")

    def after_step(self) -> None:
        self._call("after_step")


class IterationTimer(HookBase):
    """Puts the scalar `time`, seconds per iteration, and logs the speed at the end. First in the list of hooks.

    Args:
        warmup_iter: the iteration of this run, counted from 1, that the timing begins with.
    """

    def __init__(self, warmup_iter: int = 3):
        self._warmup_iter = warmup_iter
        self._step_start = self._train_start = 0.0
        self._timed_seconds = 0.0
        self._timed_steps = 0

    def before_train(self) -> None:
        self._train_start = time.perf_counter()

    def before_step(self) -> None:
        self._step_start = time.perf_counter()

    def after_step(self) -> None:
        if self.trainer.iter - self.trainer.start_iter + 1 < self._warmup_iter:
            return
        seconds = time.perf_counter() - self._step_start
        self.trainer.storage.put_scalars(time=seconds)
        self._timed_seconds += seconds
        self._timed_steps += 1

    def after_train(self) -> None:
        total = time.perf_counter() - self._train_start
        if self._timed_steps:
            speed = self._timed_seconds / self._timed_steps
            text = "Overall training speed: %d iterations in %s (%.4f s / it)"
            logger.info(text, self._timed_steps, _duration(self._timed_seconds), speed)
        steps = self.trainer.iter - self.trainer.start_iter
        logger.info("Total training time: %s for %d iterations, time in hooks included", _duration(total), steps)


def _duration(seconds: float) -> str:
    return str(datetime.timedelta(seconds=int(seconds)))


class LRScheduler(HookBase):
    """Puts the scalar `lr` and steps a scheduler after every iteration.

    Args:
        optimizer: None takes the trainer's.
        scheduler: a torch scheduler, or a fvcore `ParamScheduler` over the whole run; None takes the trainer's.
    """

    def __init__(self, optimizer: torch.optim.Optimizer | None = None, scheduler=None):
        self._optimizer = optimizer
        self._scheduler = scheduler
        self._best_group: dict = {}

    def before_train(self) -> None:
        self._optimizer = self._optimizer or self.trainer.optimizer
        if isinstance(self.scheduler, ParamScheduler):
            self._scheduler = LRMultiplier(
                self._optimizer, self.scheduler, self.trainer.max_iter, last_iter=self.trainer.iter - 1
            )
        self._best_group = _representative_group(self._optimizer.param_groups)

    def after_step(self) -> None:
        self.trainer.storage.put_scalar("lr", self._best_group["lr"], smoothing_hint=False)
        self.scheduler.step()

    @property
    def scheduler(self):
        return self.trainer.scheduler if self._scheduler is None else self._scheduler

    def state_dict(self) -> dict:
        return self.scheduler.state_dict() if isinstance(self.scheduler, _LRScheduler) else {}

    def load_state_dict(self, state_dict: dict) -> None:
        if isinstance(self.scheduler, _LRScheduler):
            self.scheduler.load_state_dict(state_dict)


def _representative_group(groups: list[dict]) -> dict:
    """The largest group; where each has one parameter, one with the most common rate."""
    if all(len(group["params"]) == 1 for group in groups):
        common_lr, _ = Counter(group["lr"] for group in groups).most_common(1)[0]
        return next(group for group in groups if group["lr"] == common_lr)
    return max(groups, key=lambda group: len(group["params"]))


class PeriodicCheckpointer(_PeriodicCheckpointer, HookBase):
    """`detectron2.checkpoint.PeriodicCheckpointer` after every iteration of a run."""

    def before_train(self) -> None:
        self.max_iter = self.trainer.max_iter

    def after_step(self) -> None:
        self.step(self.trainer.iter)


class BestCheckpointer(HookBase):
    """Saves a checkpoint whenever a metric improves. Place it after the EvalHook that puts the metric.

    The best checkpoint does not become the last one: `--resume` goes on from the newest.

    Args:
        eval_period: as the EvalHook's.
        val_metric: scalar to watch, e.g. "bbox/AP50".
        mode: "max" or "min"; AssertionError otherwise.
        file_prefix: name of the file.
    """

    def __init__(
        self,
        eval_period: int,
        checkpointer: Checkpointer,
        val_metric: str,
        mode: str = "max",
        file_prefix: str = "model_best",
    ):
        assert mode in ("max", "min"), f"mode must be 'max' or 'min', got {mode!r}"
        self._period = eval_period
        self._checkpointer = checkpointer
        self._val_metric = val_metric
        self._better = operator.gt if mode == "max" else operator.lt
        self._file_prefix = file_prefix
        self.best_metric: float | None = None
        self.best_iter: int | None = None

    def after_step(self) -> None:
        next_iter = self.trainer.iter + 1
        if self._period > 0 and next_iter % self._period == 0 and next_iter != self.trainer.max_iter:
            self._check()

    def after_train(self) -> None:
        if self.trainer.iter >= self.trainer.max_iter:
            self._check()

    def _check(self) -> None:
        latest = self.trainer.storage.latest().get(self._val_metric)
        if latest is None:
            logger.warning("%s is not among the metrics, no best checkpoint is saved", self._val_metric)
            return
        value, iteration = latest
        if math.isfinite(value) and (self.best_metric is None or self._better(value, self.best_metric)):
            self.best_metric, self.best_iter = value, iteration
            write = getattr(self._checkpointer, "write", self._checkpointer.save)
            write(self._file_prefix, iteration=iteration)
            logger.info("Saved best model: %s = %.5f at iteration %d", self._val_metric, value, iteration)


class EvalHook(HookBase):
    """Evaluates periodically, except at the very last iteration, and once after a successful run.

    Args:
        eval_period: iterations between evaluations; 0 evaluates at the end only.
        eval_function: () -> nested dict of floats, put as scalars such as "bbox/AP"; nothing falsy is put.
        eval_after_train: False leaves the evaluation at the end out.

    Raises:
        AssertionError: the result is no dict.
        ValueError: a result is no number; names it.
    """

    def __init__(self, eval_period: int, eval_function: Callable[[], Mapping | None], eval_after_train: bool = True):
        self._period = eval_period
        self._func = eval_function
        self._eval_after_train = eval_after_train

    def after_step(self) -> None:
        next_iter = self.trainer.iter + 1
        if self._period > 0 and next_iter % self._period == 0 and next_iter != self.trainer.max_iter:
            self._evaluate()

    def after_train(self) -> None:
        if self._eval_after_train and self.trainer.iter >= self.trainer.max_iter:
            self._evaluate()
        self._func = None  # it may refer back to the trainer

    def _evaluate(self) -> None:
        results = self._func()
        if results:
            assert isinstance(results, dict), f"the evaluation must return a dict, got {results!r}"
            scalars = {name: _as_float(name, value) for name, value in flatten_results_dict(results).items()}
            self.trainer.storage.put_scalars(**scalars, smoothing_hint=False)
        comm.synchronize()  # the processes may take different time


def _as_float(name: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"the evaluation must return a nested dict of floats, got {name!r}: {value!r} ({type(value).__name__})"
        ) from error


class PeriodicWriter(HookBase):
    """Lets writers write every `period` iterations and at the end. Last in the list of hooks."""

    def __init__(self, writers: Iterable[EventWriter], period: int = 20):
        self._writers = list(writers)
        for writer in self._writers:
            assert isinstance(writer, EventWriter), f"not an EventWriter: {writer!r}"
        self._period = period

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        if done % self._period == 0 or done == self.trainer.max_iter:
            self._write()

    def after_train(self) -> None:
        self._write()
        for writer in self._writers:
            writer.close()

    def _write(self) -> None:
        for writer in self._writers:
            writer.write()
        _clear_shown(self.trainer.storage)


def _clear_shown(storage: EventStorage) -> None:
    """Images and histograms go once every writer has had them."""
    storage.clear_images()
    storage.clear_histograms()
