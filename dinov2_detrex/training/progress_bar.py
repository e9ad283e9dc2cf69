"""How does a run show how far it is? A bar that a terminal, a notebook and a log file each can read.

On a terminal and in a notebook it moves in its place. Elsewhere, as in a CI's log, each state is a line of its own, one
a minute, so that nothing is torn and nothing is flooded.
"""

import contextlib
import importlib.util
import logging
import sys
from typing import Any, TextIO

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from dinov2_detrex.config.train_options import ProgressBarMode
from dinov2_detrex.training.trainer import TrainerHook

METRIC_LOGGER = "detectron2.utils.events"  # of CommonMetricPrinter; on a terminal the bar shows its numbers
_LINE_PERIOD_S = 60
_LINE_WIDTH = 110


class Lines:
    """A stream for tqdm in which each state of the bar is a line."""

    def __init__(self, stream: TextIO):
        self._stream = stream

    def write(self, text: str) -> None:
        state = text.strip("\r\n ")
        if state:
            self._stream.write(f"{state}\n")

    def flush(self) -> None:
        self._stream.flush()


def in_notebook() -> bool:
    """True in a kernel of Jupyter whose page can show tqdm's own bar."""
    return "ipykernel" in sys.modules and importlib.util.find_spec("ipywidgets") is not None


def shows_bar(mode: ProgressBarMode) -> bool:
    """Whether a run has a bar."""
    return mode is ProgressBarMode.always or (mode is ProgressBarMode.auto and (sys.stderr.isatty() or in_notebook()))


class ProgressBar(TrainerHook):
    """A bar with speed, time left, loss, learning rate and AP on stderr, or in the notebook; log lines stay whole.

    Args:
        loggers: names of the loggers whose console lines must not tear the bar.
        line_period_s: seconds between two states where each is a line.
    """

    def __init__(self, loggers: list[str], line_period_s: float = _LINE_PERIOD_S):
        self.loggers = [logging.getLogger(name) for name in loggers]
        self.line_period_s = line_period_s
        self._bar: Any = None
        self._redirection = contextlib.ExitStack()

    def before_train(self):
        span: dict[str, Any] = {"initial": self.trainer.start_iter, "total": self.trainer.max_iter, "unit": "it"}
        if in_notebook():
            from tqdm.notebook import tqdm as notebook_tqdm

            self._bar = notebook_tqdm(**span)
        elif sys.stderr.isatty():
            self._print_above()
            self._bar = tqdm(**span, dynamic_ncols=True)
        else:
            lines: dict[str, Any] = {"file": Lines(sys.stderr), "mininterval": self.line_period_s, "maxinterval": 1e9}
            self._bar = tqdm(**span, **lines, ascii=True, ncols=_LINE_WIDTH, miniters=1)

    def _print_above(self) -> None:
        """Log lines go above the bar, and those that repeat its numbers nowhere."""
        self._redirection.enter_context(logging_redirect_tqdm(self.loggers))
        for handler in (handler for logger in self.loggers for handler in logger.handlers):
            if getattr(handler, "stream", None) in (sys.stdout, sys.stderr):  # not those of log.txt
                handler.addFilter(lambda record: record.name != METRIC_LOGGER)

    def after_step(self):
        latest = self.trainer.storage.latest()
        shown = {name: f"{latest[name][0]:.4g}" for name in ("total_loss", "lr", "bbox/AP") if name in latest}
        if self._bar is not None:
            self._bar.set_postfix(shown, refresh=False)
            self._bar.update()

    def after_train(self):
        if self._bar is not None:
            self._bar.close()
            self._redirection.close()
