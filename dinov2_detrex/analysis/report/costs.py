"""What did a run cost? Iterations, images, time, waiting, memory and disk, as far as its files say."""

from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig

from dinov2_detrex.analysis.report.history import History, Series
from dinov2_detrex.training.progress import MEMORY

WEIGHTS = ("model_best.pth", "model_final.pth")


def run_costs(run: Path, history: History, cfg: DictConfig | None) -> dict[str, Any]:
    """Those that are known, for JSON.

    Returns:
        "iterations", "images_per_iteration", "images_seen", "seconds_per_iteration" (median), "training_s" (the sum
        over all iterations, without evaluations), "waiting_share" (of that time, for data), "images_per_s", "wall_s"
        (by the log, with evaluations), "peak_memory_mb", "device", and "files_mb" {weights: megabytes}.
    """
    found: dict[str, Any] = {}
    last = max((int(one.iterations[-1]) for one in history.named("total_loss", "lr", "time").values()), default=-1)
    if last >= 0:
        found["iterations"] = last + 1
    batch = None if cfg is None else (cfg.dataloader.get("train") or {}).get("total_batch_size")
    if isinstance(batch, int):
        found["images_per_iteration"] = batch
        found |= {"images_seen": batch * (last + 1)} if last >= 0 else {}
    found |= _times(history, batch if isinstance(batch, int) else None)
    found |= {"wall_s": history.wall_s} if history.wall_s else {}
    if MEMORY in history.series:
        found["peak_memory_mb"] = float(np.nanmax(history.series[MEMORY].values))
    found |= {"device": history.device} if history.device else {}
    sizes = {name: (run / name).stat().st_size / 1e6 for name in WEIGHTS if (run / name).is_file()}
    return found | ({"files_mb": sizes} if sizes else {})


def _times(history: History, batch: int | None) -> dict[str, float]:
    if "time" not in history.series:
        return {}
    median = float(np.nanmedian(history.series["time"].values))
    total = _sum(history.series["time"])
    found = {"seconds_per_iteration": median, "training_s": total}
    if "data_time" in history.series and total:
        found["waiting_share"] = min(1.0, _sum(history.series["data_time"]) / total)
    return found | ({"images_per_s": batch / median} if batch and median else {})


def _sum(series: Series) -> float:
    """Over all iterations, of a value that is logged from time to time and holds back to the line before."""
    lengths = np.diff(np.concatenate([[-1], series.iterations]))
    return float(np.nansum(series.values * lengths))


def in_words(costs: dict[str, Any]) -> list[tuple[str, str]]:
    """(what, value with unit) of what is known, for people."""
    formats = {
        "iterations": ("iterations", lambda v: f"{v:,}"),
        "images_per_iteration": ("images an iteration", str),
        "images_seen": ("images seen in training", lambda v: f"{v:,}"),
        "training_s": ("time of all iterations", duration),
        "wall_s": ("time by the log, evaluations included", duration),
        "seconds_per_iteration": ("seconds an iteration (median)", lambda v: f"{v:.3g}"),
        "images_per_s": ("images a second", lambda v: f"{v:.3g}"),
        "waiting_share": ("share of the time that waited for data", lambda v: f"{100 * v:.1f} %"),
        "peak_memory_mb": ("peak memory", lambda v: f"{v:,.0f} MB"),
        "device": ("device", str),
    }
    rows = [(label, show(costs[key])) for key, (label, show) in formats.items() if key in costs]
    return rows + [(name, f"{size:,.1f} MB") for name, size in costs.get("files_mb", {}).items()]


def duration(seconds: float) -> str:
    """59 -> "59 s", 3700 -> "1 h 2 min"."""
    if seconds < 100:
        return f"{seconds:.3g} s"
    minutes = round(seconds / 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"
