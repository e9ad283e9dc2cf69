"""What a run tells: metrics.json, TensorBoard, Weights & Biases, log lines, and a progress bar on a terminal."""

import contextlib
import json
import logging
import math
import os
import sys
from pathlib import Path
from typing import Any

import torch
from detectron2.utils.events import CommonMetricPrinter, EventWriter, TensorboardXWriter, get_event_storage
from omegaconf import DictConfig, OmegaConf
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from dinov2_detrex.config.train_options import TrainOptions
from dinov2_detrex.runtime.errors import MissingPackageError, UserError
from dinov2_detrex.runtime.files import write_text
from dinov2_detrex.training.trainer import TrainerHook

METRIC_LOGGER = "detectron2.utils.events"  # of CommonMetricPrinter; on a terminal the bar shows its numbers
METRICS_FILE = "metrics.json"
MEMORY = "max_mem_mb"
WINDOW = 20  # iterations over which noisy values are smoothed


class _NewScalars:
    """What has come into the event storage since the last call, smoothed, by iteration in ascending order."""

    def __init__(self):
        self._last = -1

    def take(self) -> list[tuple[int, dict[str, float]]]:
        by_iteration: dict[int, dict[str, float]] = {}
        for name, (value, iteration) in get_event_storage().latest_with_smoothing_hint(WINDOW).items():
            if iteration > self._last:
                by_iteration.setdefault(iteration, {})[name] = value
        self._last = max(by_iteration, default=self._last)
        return sorted(by_iteration.items())


class MetricsJson(EventWriter):
    """One JSON object per line and iteration, in order; values that JSON cannot hold are null.

    Args:
        path: appended to.
        start_iter: lines of this iteration and later ones are of a run that was killed, and removed.
    """

    def __init__(self, path: str | os.PathLike, start_iter: int = 0):
        self.path, self._new = Path(path), _NewScalars()
        if self.path.is_file():
            _keep_lines_before(self.path, start_iter)

    def write(self):
        lines = []
        for iteration, scalars in self._new.take():
            record = {name: value if math.isfinite(value) else None for name, value in scalars.items()}
            lines.append(json.dumps(record | {"iteration": iteration}, sort_keys=True) + "\n")
        with open(self.path, "a") as file:
            file.writelines(lines)


class WandbMetrics(EventWriter):
    """The same numbers to Weights & Biases.

    Args:
        params: keywords of `wandb.init`.
        cfg: the whole config, which is recorded.

    Raises:
        MissingPackageError: wandb is not installed.
        UserError: it does not start (not logged in: `wandb login`, or WANDB_MODE=offline).
    """

    def __init__(self, params: dict[str, Any], cfg: DictConfig):
        try:
            import wandb  # pyright: ignore[reportMissingImports]  # an optional dependency
        except ImportError as error:
            raise MissingPackageError(f"train.wandb.enabled=true needs wandb: pip install wandb ({error})") from error
        os.makedirs(params.get("dir") or ".", exist_ok=True)
        try:
            self._run = wandb.init(config=_plain(cfg), **params)
        except wandb.errors.Error as error:
            raise UserError(f"wandb does not start ({error}); `wandb login`, or set WANDB_MODE=offline") from error
        self._new = _NewScalars()

    def write(self):
        for iteration, scalars in self._new.take():
            self._run.log(scalars, step=iteration)

    def close(self):
        self._run.finish()


def _plain(cfg: DictConfig) -> Any:
    """The resolved config with callables by name."""

    def named(value):
        if isinstance(value, dict):
            return {str(name): named(inner) for name, inner in value.items()}
        if isinstance(value, list | tuple):
            return [named(inner) for inner in value]
        simple = value is None or isinstance(value, str | int | float | bool)
        return value if simple else getattr(value, "__qualname__", repr(value))

    return named(OmegaConf.to_container(cfg, resolve=True))


class PeakMemory(TrainerHook):
    """Records the most memory that this process has taken so far, as "max_mem_mb", in millions of bytes.

    That is what PyTorch allocated on a CUDA GPU; without one, what the process had resident, where the system tells.

    Args:
        period: iterations between two looks.
    """

    def __init__(self, period: int):
        self.period = period

    def after_step(self):
        if self.trainer.completed % self.period == 0 and (peak := _peak_bytes()):
            self.trainer.storage.put_scalar(MEMORY, peak / 1e6, smoothing_hint=False)


def _peak_bytes() -> int:
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated()
    try:
        import resource  # not on Windows
    except ImportError:
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # bytes there, kilobytes elsewhere


class ForgetOldValues(TrainerHook):
    """Keeps the event storage from growing over a long run: of each scalar the last values stay, in memory.

    Args:
        period: iterations between two looks.
        keep: values that stay; the writers look back 1000 at most.
    """

    def __init__(self, period: int = 1000, keep: int = 2000):
        self.period, self.keep = period, keep

    def after_step(self):
        if self.trainer.completed % self.period == 0:
            for buffer in self.trainer.storage.histories().values():
                del buffer.values()[: -self.keep]


def _keep_lines_before(path: Path, iteration: int) -> None:
    kept = []
    for line in path.read_text().splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            continue  # cut off by a kill
        if record.get("iteration", 0) < iteration:
            kept.append(line + "\n")
    write_text(path, "".join(kept))


class ProgressBar(TrainerHook):
    """A bar with speed, time left, loss and learning rate on stderr; log lines are printed above it.

    Args:
        loggers: names of the loggers whose console lines must not tear the bar.
    """

    def __init__(self, loggers: list[str]):
        self.loggers = [logging.getLogger(name) for name in loggers]
        self._bar, self._redirection = None, contextlib.ExitStack()

    def before_train(self):
        self._redirection.enter_context(logging_redirect_tqdm(self.loggers))
        for handler in (handler for logger in self.loggers for handler in logger.handlers):
            if getattr(handler, "stream", None) in (sys.stdout, sys.stderr):  # not those of log.txt
                handler.addFilter(lambda record: record.name != METRIC_LOGGER)
        self._bar = tqdm(initial=self.trainer.start_iter, total=self.trainer.max_iter, unit="it", dynamic_ncols=True)

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


def shows_bar() -> bool:
    """True where stderr is a terminal."""
    return sys.stderr.isatty()


def build_writers(options: TrainOptions, cfg: DictConfig, start_iter: int = 0) -> list[EventWriter]:
    """The writers of the main process.

    Args:
        options: `output_dir`, `max_iter` and `wandb` are read.
        cfg: the whole config, for Weights & Biases.
        start_iter: what an earlier, killed run wrote from this iteration on is superseded.

    Raises:
        UserError: `train.wandb.enabled` without a wandb that starts.
    """
    folder = Path(options.output_dir)
    writers = [CommonMetricPrinter(options.max_iter), MetricsJson(folder / METRICS_FILE, start_iter)]
    writers.append(TensorboardXWriter(str(folder), **({"purge_step": start_iter} if start_iter else {})))
    return writers + ([WandbMetrics(options.wandb.params, cfg)] if options.wandb.enabled else [])
