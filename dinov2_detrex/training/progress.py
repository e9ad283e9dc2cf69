"""What does a run tell, and to whom? metrics.json, TensorBoard, log lines and experiment trackers."""

import json
import math
import os
from pathlib import Path

import torch
from detectron2.utils.events import CommonMetricPrinter, EventWriter, TensorboardXWriter
from omegaconf import DictConfig

from dinov2_detrex.config.train_options import TrainOptions
from dinov2_detrex.runtime.allocations import resident_peak_bytes
from dinov2_detrex.runtime.files import write_text
from dinov2_detrex.training.new_scalars import NewScalars
from dinov2_detrex.training.trackers import MlflowMetrics, WandbMetrics
from dinov2_detrex.training.trainer import TrainerHook

METRICS_FILE = "metrics.json"
MEMORY = "max_mem_mb"


class MetricsJson(EventWriter):
    """One JSON object per line and iteration, in order; values that JSON cannot hold are null.

    Args:
        path: appended to.
        start_iter: lines of this iteration and later ones are of a run that was killed, and removed.
    """

    def __init__(self, path: str | os.PathLike, start_iter: int = 0):
        self.path, self._new = Path(path), NewScalars()
        if self.path.is_file():
            _keep_lines_before(self.path, start_iter)

    def write(self):
        lines = []
        for iteration, scalars in self._new.take():
            record = {name: value if math.isfinite(value) else None for name, value in scalars.items()}
            lines.append(json.dumps(record | {"iteration": iteration}, sort_keys=True) + "\n")
        with open(self.path, "a") as file:
            file.writelines(lines)


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
    return resident_peak_bytes()


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


def build_writers(options: TrainOptions, cfg: DictConfig, start_iter: int = 0) -> list[EventWriter]:
    """The writers of the main process.

    Args:
        options: `output_dir`, `max_iter`, `wandb` and `mlflow` are read.
        cfg: the whole config, for the trackers.
        start_iter: what an earlier, killed run wrote from this iteration on is superseded.

    Raises:
        UserError: a tracker is enabled that is not installed or does not start.
    """
    folder = Path(options.output_dir)
    writers = [CommonMetricPrinter(options.max_iter), MetricsJson(folder / METRICS_FILE, start_iter)]
    writers.append(TensorboardXWriter(str(folder), **({"purge_step": start_iter} if start_iter else {})))
    writers += [WandbMetrics(options.wandb.params, cfg)] if options.wandb.enabled else []
    return writers + ([MlflowMetrics(options.mlflow, cfg)] if options.mlflow.enabled else [])
