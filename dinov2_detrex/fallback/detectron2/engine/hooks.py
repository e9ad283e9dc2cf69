"""What goes on around the steps of a run: timing and writing."""

import datetime
import logging
import time
from collections.abc import Iterable

from ..utils.events import EventStorage, EventWriter
from .train_loop import HookBase

__all__ = ["IterationTimer", "PeriodicWriter"]

logger = logging.getLogger(__name__)


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
        assert self.trainer.storage is not None  # there is one during `train`
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
        assert self.trainer.storage is not None  # there is one during `train`
        _clear_shown(self.trainer.storage)


def _clear_shown(storage: EventStorage) -> None:
    """Images and histograms go once every writer has had them."""
    storage.clear_images()
    storage.clear_histograms()
