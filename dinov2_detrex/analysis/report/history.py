"""What did a run log? The numbers of metrics.json by name, and what log.txt adds, of this project's and other engines.

detectron2, detrex and this project write one JSON object a line, with "iteration" and the names of the event storage:
"total_loss", "loss_class", "lr", "time", "data_time", "bbox/AP", "bbox/AP-<class>". Peak memory stands in detectron2's
and detrex's log lines alone, as "max_mem: 4321M".
"""

import datetime
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from dinov2_detrex.training.progress import MEMORY, METRICS_FILE

LOG_FILE = "log.txt"
EMA = "ema/"
_STAMP = re.compile(r"\[(\d\d)/(\d\d) (\d\d):(\d\d):(\d\d)")
_STARTS = re.compile(r"(Rank of current process: 0|process 0 of)")  # how a log says that a run begins
_PROGRESS = re.compile(r"iter: (\d+) .*max_mem: (\d+)M")
_DEVICE = re.compile(r"device (\S+, precision .+)")
_MAIN_AP = ("bbox/AP", "bbox/AP50", "bbox/AP75", "bbox/APs", "bbox/APm", "bbox/APl", "segm/AP")
_PAUSE_S = 7 * 86400  # a longer silence between two lines is no work


@dataclass(frozen=True)
class Series:
    """One number over a run: iterations (T,) ascending, values (T,), NaN where it was not finite."""

    iterations: np.ndarray
    values: np.ndarray


@dataclass(frozen=True)
class History:
    """What a run logged.

    Attributes:
        series: by name.
        wall_s: seconds between the log's lines, pauses between two starts left out; None without a log.
        device: as the log names it; "" where it does not.
    """

    series: dict[str, Series] = field(default_factory=dict)
    wall_s: float | None = None
    device: str = ""

    def losses(self) -> dict[str, dict[str, Series]]:
        """{loss: {name: series}}: a loss with those of its layers, which have its name and an ending.

        The total comes first, then the losses of training, then those of validation.
        """
        names = [name for name in self.series if _is_loss(name)]
        bases = [name for name in names if not any(_is_part(name, other) for other in names)]
        bases.sort(key=lambda name: (name != "total_loss", "/" in name, name))
        return {base: {n: self.series[n] for n in sorted(names) if n == base or _is_part(n, base)} for base in bases}

    def named(self, *names: str) -> dict[str, Series]:
        """Those of the names that were logged."""
        return {name: self.series[name] for name in names if name in self.series}

    def rates(self) -> dict[str, Series]:
        """Learning rates."""
        return {name: one for name, one in self.series.items() if name == "lr" or name.startswith("lr/")}

    def average_precisions(self) -> dict[str, Series]:
        """Those over all classes, of the averaged weights too."""
        return self.named(*_MAIN_AP, *(EMA + name for name in _MAIN_AP))


def _is_loss(name: str) -> bool:
    last = name.rpartition("/")[2]
    return last.startswith("loss") or last.endswith("loss") or name.startswith("validation/")


def _is_part(name: str, base: str) -> bool:
    return name.startswith(f"{base}_")


def read_history(run: Path) -> History:
    """The history of a run's folder; empty where it has neither file, and lines that are none are skipped."""
    rows = _rows(run / METRICS_FILE)
    log = _lines(run / LOG_FILE)
    series = _by_name(rows)
    if MEMORY not in series:
        series |= _memory(log)
    devices = [hit[1] for line in log if (hit := _DEVICE.search(line))]
    return History(series, _wall_seconds(log) if log else None, devices[-1].strip() if devices else "")


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []


def _rows(path: Path) -> list[dict]:
    rows = []
    for line in _lines(path):
        try:
            row = json.loads(line)
        except ValueError:  # cut off by a kill
            continue
        if isinstance(row, dict) and isinstance(row.get("iteration"), int):
            rows.append(row)
    return rows


def _by_name(rows: Iterable[dict]) -> dict[str, Series]:
    """Later lines win: what a resumed run repeats was not undone in other engines' files."""
    found: dict[str, dict[int, float]] = {}
    for row in rows:
        for name, value in row.items():
            if name != "iteration" and (value is None or isinstance(value, int | float)):
                found.setdefault(name, {})[row["iteration"]] = float("nan") if value is None else float(value)
    return {name: _series(by_iteration) for name, by_iteration in found.items()}


def _memory(lines: Iterable[str]) -> dict[str, Series]:
    """Peak memory as detectron2's log lines have it, the largest of an iteration; {} where they have none."""
    peaks: dict[int, float] = {}
    for hit in map(_PROGRESS.search, lines):
        if hit:
            iteration, megabytes = int(hit[1]), float(hit[2])
            peaks[iteration] = max(megabytes, peaks.get(iteration, 0.0))
    return {MEMORY: _series(peaks)} if peaks else {}


def _series(by_iteration: dict[int, float]) -> Series:
    order = sorted(by_iteration)
    return Series(np.array(order), np.array([by_iteration[one] for one in order], dtype=np.float64))


def _wall_seconds(lines: Iterable[str]) -> float:
    """The lines say no year: a step back in time is New Year's Eve, if not a new start."""
    total, before = 0.0, None
    for line in lines:
        stamp = _STAMP.search(line)
        if stamp is None:
            continue
        month, day, hour, minute, second = (int(text) for text in stamp.groups())
        now = datetime.datetime(2024, month, day, hour, minute, second)  # a leap year
        if before is not None and not _STARTS.search(line):
            step = (now - before).total_seconds() % (366 * 86400)
            total += step if step < _PAUSE_S else 0.0
        before = now
    return total
