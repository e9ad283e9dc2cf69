"""Where do a run's numbers go? Into the EventStorage, and from there by writers to the log, JSON and TensorBoard."""

import contextlib
import datetime
import json
import logging
import math
import os
import time
from collections import defaultdict
from collections.abc import Iterator

import torch
from fvcore.common.history_buffer import HistoryBuffer

__all__ = [
    "CommonMetricPrinter",
    "EventStorage",
    "EventWriter",
    "HistoryBuffer",
    "JSONWriter",
    "TensorboardXWriter",
    "get_event_storage",
    "has_event_storage",
]

_storages: list["EventStorage"] = []


def get_event_storage() -> "EventStorage":
    """The innermost storage in use; AssertionError outside any `with EventStorage(...)`."""
    assert _storages, "get_event_storage() has to be called inside a 'with EventStorage(...)' context"
    return _storages[-1]


def has_event_storage() -> bool:
    return bool(_storages)


class EventStorage:
    """Scalars (with history), images and histograms of a run, by name. A context manager; contexts may be nested.

    Args:
        start_iter: the iteration that the run starts at.
    """

    def __init__(self, start_iter: int = 0):
        self.iter = start_iter
        self._history: dict[str, HistoryBuffer] = defaultdict(HistoryBuffer)
        self._smoothing_hints: dict[str, bool] = {}
        self._latest: dict[str, tuple[float, int]] = {}
        self._prefix = ""
        self._images: list[tuple[str, torch.Tensor, int]] = []
        self._histograms: list[dict] = []

    def __enter__(self) -> "EventStorage":
        _storages.append(self)
        return self

    def __exit__(self, *exc_info) -> None:
        assert _storages.pop() is self, "EventStorage contexts must end in the reverse order of their start"

    @property
    def iteration(self) -> int:
        return self.iter

    def step(self) -> None:
        self.iter += 1

    def put_scalar(self, name: str, value, smoothing_hint: bool = True, cur_iter: int | None = None) -> None:
        """Record a number.

        Args:
            value: anything that float() takes; ValueError or TypeError otherwise.
            smoothing_hint: whether writers should show a median over a window; fixed by the name's first use.
            cur_iter: the iteration it belongs to; None means the current one.
        """
        name = self._prefix + name
        cur_iter = self.iter if cur_iter is None else cur_iter
        value = float(value)
        hint = self._smoothing_hints.setdefault(name, smoothing_hint)
        assert hint == smoothing_hint, f"scalar {name} was put with smoothing_hint={hint} before"
        self._history[name].update(value, cur_iter)
        self._latest[name] = (value, cur_iter)

    def put_scalars(self, *, smoothing_hint: bool = True, cur_iter: int | None = None, **kwargs) -> None:
        for name, value in kwargs.items():
            self.put_scalar(name, value, smoothing_hint=smoothing_hint, cur_iter=cur_iter)

    def put_image(self, img_name: str, img_tensor) -> None:
        """Keep a (3, H, W) RGB image, uint8 in [0, 255] or float in [0, 1], for the writers that show images."""
        self._images.append((img_name, img_tensor, self.iter))

    def put_histogram(self, hist_name: str, hist_tensor: torch.Tensor, bins: int = 1000) -> None:
        """Keep the histogram of a tensor's values for the writers that show histograms."""
        values = hist_tensor.detach().float().flatten().cpu()
        low, high = values.min().item(), values.max().item()
        counts = torch.histc(values, bins=bins, min=low, max=high)
        edges = torch.linspace(low, high, steps=bins + 1)
        self._histograms.append(
            {
                "tag": hist_name,
                "min": low,
                "max": high,
                "num": len(values),
                "sum": float(values.sum()),
                "sum_squares": float((values**2).sum()),
                "bucket_limits": edges[1:].tolist(),
                "bucket_counts": counts.tolist(),
                "global_step": self.iter,
            }
        )

    def history(self, name: str) -> HistoryBuffer:
        if name not in self._history:
            raise KeyError(f"no history of scalar {name!r}")
        return self._history[name]

    def histories(self) -> dict[str, HistoryBuffer]:
        return self._history

    def latest(self) -> dict[str, tuple[float, int]]:
        """{name: (last value, its iteration)}."""
        return self._latest

    def latest_with_smoothing_hint(self, window_size: int = 20) -> dict[str, tuple[float, int]]:
        """`latest`, with the median over the last `window_size` iterations for the scalars that are hinted so."""
        return {name: (self._smoothed(name, value, window_size), it) for name, (value, it) in self._latest.items()}

    def _smoothed(self, name: str, value: float, window_size: int) -> float:
        if not self._smoothing_hints[name]:
            return value
        return float(self._history[name].median(self.count_samples(name, window_size)))

    def count_samples(self, name: str, window_size: int = 20) -> int:
        """How many samples of a scalar were put within its last `window_size` iterations."""
        last_iter = self._latest[name][1]
        count = 0
        for _, iteration in reversed(self._history[name].values()):
            if iteration <= last_iter - window_size:
                break
            count += 1
        return count

    def smoothing_hints(self) -> dict[str, bool]:
        return self._smoothing_hints

    @contextlib.contextmanager
    def name_scope(self, name: str) -> Iterator[None]:
        """Prefix the scalars put inside with `name/`."""
        outer, self._prefix = self._prefix, name.rstrip("/") + "/"
        try:
            yield
        finally:
            self._prefix = outer

    def clear_images(self) -> None:
        self._images = []

    def clear_histograms(self) -> None:
        self._histograms = []


class EventWriter:
    """Carries what is in the current EventStorage somewhere. `write` runs inside the storage's context."""

    def write(self) -> None:
        raise NotImplementedError

    def close(self) -> None:
        pass


class _NewScalars:
    """What was put since the last write: (iteration, name, smoothed value), sorted by iteration."""

    def __init__(self, window_size: int):
        self.window_size = window_size
        self.last_iter = -1

    def take(self, storage: EventStorage) -> list[tuple[int, str, float]]:
        scalars = storage.latest_with_smoothing_hint(self.window_size)
        new = sorted((it, name, value) for name, (value, it) in scalars.items() if it > self.last_iter)
        self.last_iter = new[-1][0] if new else self.last_iter
        return new


class JSONWriter(EventWriter):
    """Appends one JSON object per iteration with new scalars; values that JSON lacks (NaN, inf) become null.

    Args:
        json_file: opened for append at once; every write is flushed and synced to the disk.
        window_size: iterations in the median of smoothed scalars.
    """

    def __init__(self, json_file: str | os.PathLike, window_size: int = 20):
        self._file = open(json_file, "a", encoding="utf-8")
        self._new = _NewScalars(window_size)

    def write(self) -> None:
        rows: dict[int, dict] = defaultdict(dict)
        for iteration, name, value in self._new.take(get_event_storage()):
            rows[iteration][name] = value if math.isfinite(value) else None
        for iteration, row in rows.items():
            line = json.dumps({**row, "iteration": iteration}, sort_keys=True, allow_nan=False)
            self._file.write(line + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


class TensorboardXWriter(EventWriter):
    """Scalars, images and histograms for TensorBoard; its file and its import come with the first write.

    Images and histograms stay in the storage for other writers; the PeriodicWriter hook clears them after all.

    Args:
        log_dir: folder of the event file.
        window_size: iterations in the median of smoothed scalars.
        kwargs: for torch.utils.tensorboard.SummaryWriter.
    """

    def __init__(self, log_dir: str | os.PathLike, window_size: int = 20, **kwargs):
        self._arguments = {"log_dir": os.fspath(log_dir), **kwargs}
        self._new = _NewScalars(window_size)
        self._summary_writer = None

    @property
    def _writer(self):
        if self._summary_writer is None:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError as error:
                raise ImportError(
                    "TensorboardXWriter needs the package tensorboard: pip install tensorboard"
                ) from error
            self._summary_writer = SummaryWriter(**self._arguments)
        return self._summary_writer

    def write(self) -> None:
        storage = get_event_storage()
        for iteration, name, value in self._new.take(storage):
            self._writer.add_scalar(name, value, iteration)
        for name, image, iteration in storage._images:
            self._writer.add_image(name, image, iteration)
        for histogram in storage._histograms:
            self._writer.add_histogram_raw(**histogram)

    def close(self) -> None:
        if self._summary_writer is not None:
            self._summary_writer.close()


class CommonMetricPrinter(EventWriter):
    """Logs one line per write: remaining time, losses, speeds, learning rate, memory.

    Args:
        max_iter: end of the run, for the remaining time; None leaves it out.
        window_size: iterations that losses and data times are taken over.
    """

    def __init__(self, max_iter: int | None = None, window_size: int = 20):
        self.logger = logging.getLogger("detectron2.utils.events")
        self._max_iter = max_iter
        self._window_size = window_size
        self._last_write: tuple[int, float] | None = None  # (iteration, seconds) for the eta without `time`

    def write(self) -> None:
        storage = get_event_storage()
        if storage.iter == self._max_iter:
            return  # the hooks' after_train, when the line has been written already
        self.logger.info(" " + "".join(self._fields(storage)))

    def _fields(self, storage: EventStorage) -> Iterator[str]:
        eta = self._eta(storage)
        if eta is not None:
            yield f"eta: {eta}  "
        yield f"iter: {storage.iter}  "
        for mark in ("loss", "[metric]"):
            names = [name for name in storage.histories() if mark in name]
            yield from (f"{name}: {self._median(storage, name):.4g}  " for name in names)
        yield from self._times(storage)
        yield f" lr: {self._lr(storage)}  "
        if torch.cuda.is_available():
            yield f"max_mem: {torch.cuda.max_memory_allocated() / 2**20:.0f}M"

    def _median(self, storage: EventStorage, name: str) -> float:
        return storage.history(name).median(storage.count_samples(name, self._window_size))

    def _times(self, storage: EventStorage) -> Iterator[str]:
        histories = storage.histories()
        if "time" in histories:
            yield f"time: {histories['time'].global_avg():.4f}  last_time: {histories['time'].latest():.4f}  "
        if "data_time" in histories:
            average = histories["data_time"].avg(storage.count_samples("data_time", self._window_size))
            yield f"data_time: {average:.4f}  last_data_time: {histories['data_time'].latest():.4f}  "

    def _lr(self, storage: EventStorage) -> str:
        return f"{storage.history('lr').latest():.5g}" if "lr" in storage.histories() else "N/A"

    def _eta(self, storage: EventStorage) -> str | None:
        """H:MM:SS until max_iter, also put as scalar eta_seconds where iteration times are known."""
        if self._max_iter is None:
            return None
        remaining = self._max_iter - storage.iter - 1
        if "time" in storage.histories():
            seconds = float(storage.history("time").median(1000)) * remaining
            storage.put_scalar("eta_seconds", seconds, smoothing_hint=False)
        else:
            seconds = self._seconds_by_clock(storage.iter, remaining)
        return None if seconds is None else str(datetime.timedelta(seconds=int(seconds)))

    def _seconds_by_clock(self, iteration: int, remaining: int) -> float | None:
        now, last = time.perf_counter(), self._last_write
        self._last_write = (iteration, now)
        if last is None or iteration <= last[0]:
            return None
        return (now - last[1]) / (iteration - last[0]) * remaining
