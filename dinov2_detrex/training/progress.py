"""What a run tells: metrics.json, TensorBoard, Weights & Biases, log lines, and a progress bar on a terminal."""

import json
import logging
import math
import os
import sys
from pathlib import Path

from detectron2.engine import HookBase
from detectron2.utils.events import CommonMetricPrinter, EventWriter, TensorboardXWriter, get_event_storage
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from dinov2_detrex.training.checkpoint import replacing
from dinov2_detrex.training.errors import UserError

METRIC_LOGGER = "detectron2.utils.events"  # of CommonMetricPrinter; on a terminal the bar shows its numbers
METRICS_FILE = "metrics.json"
WINDOW = 20  # iterations over which noisy values are smoothed


class MetricsJson(EventWriter):
    """One JSON object per line and iteration, in order; values that JSON cannot hold are null.

    Args:
        path: appended to.
        start_iter: lines of this iteration and later ones are of a run that was killed, and removed.
    """

    def __init__(self, path: str | os.PathLike, start_iter: int = 0):
        self.path, self._last_write = Path(path), -1
        if self.path.is_file():
            _keep_lines_before(self.path, start_iter)

    def write(self):
        by_iteration: dict[int, dict] = {}
        for name, (value, iteration) in get_event_storage().latest_with_smoothing_hint(WINDOW).items():
            if iteration > self._last_write:
                by_iteration.setdefault(iteration, {})[name] = value if math.isfinite(value) else None
        if not by_iteration:
            return
        lines = [json.dumps(by_iteration[i] | {"iteration": i}, sort_keys=True) for i in sorted(by_iteration)]
        with open(self.path, "a") as file:
            file.write("\n".join(lines) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self._last_write = max(by_iteration)


def _keep_lines_before(path: Path, iteration: int) -> None:
    kept = []
    for line in path.read_text().splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            continue  # cut off by a kill
        if record.get("iteration", 0) < iteration:
            kept.append(line + "\n")
    with replacing(path) as file:
        file.write("".join(kept).encode())


class ProgressBar(HookBase):
    """A bar with speed, time left, loss and learning rate on stderr; log lines are printed above it.

    Args:
        loggers: names of the loggers whose console lines must not tear the bar.
    """

    def __init__(self, loggers: list[str]):
        self.loggers = [logging.getLogger(name) for name in loggers]
        self._bar = self._redirection = None

    def before_train(self):
        self._redirection = logging_redirect_tqdm(self.loggers)
        self._redirection.__enter__()
        for handler in (handler for logger in self.loggers for handler in logger.handlers):
            if getattr(handler, "stream", None) in (sys.stdout, sys.stderr):  # not those of log.txt
                handler.addFilter(lambda record: record.name != METRIC_LOGGER)
        self._bar = tqdm(initial=self.trainer.start_iter, total=self.trainer.max_iter, unit="it", dynamic_ncols=True)

    def after_step(self):
        latest = self.trainer.storage.latest()
        shown = {name: f"{latest[name][0]:.4g}" for name in ("total_loss", "lr", "bbox/AP") if name in latest}
        self._bar.set_postfix(shown, refresh=False)
        self._bar.update()

    def after_train(self):
        if self._bar is not None:
            self._bar.close()
            self._redirection.__exit__(None, None, None)


def shows_bar() -> bool:
    """True where stderr is a terminal."""
    return sys.stderr.isatty()


def build_writers(cfg, start_iter: int = 0) -> list[EventWriter]:
    """The writers of the main process.

    Args:
        cfg: the whole config; `train.output_dir`, `train.max_iter` and `train.wandb` are read.
        start_iter: what an earlier, killed run wrote from this iteration on is superseded.

    Raises:
        UserError: `train.wandb.enabled` without wandb.
    """
    folder = Path(cfg.train.output_dir)
    writers = [CommonMetricPrinter(cfg.train.max_iter), MetricsJson(folder / METRICS_FILE, start_iter)]
    writers.append(TensorboardXWriter(str(folder), **({"purge_step": start_iter} if start_iter else {})))
    return writers + ([_wandb_writer(cfg)] if cfg.train.wandb.enabled else [])


def _wandb_writer(cfg) -> EventWriter:
    try:
        from detrex.utils import WandbWriter

        os.makedirs(cfg.train.wandb.params.dir, exist_ok=True)
        return WandbWriter(cfg)
    except ImportError as error:
        raise UserError(f"train.wandb.enabled=true needs wandb: pip install wandb ({error})") from error
