"""How far is something long? A tqdm bar on a terminal, a line now and then where the output goes to a file or a log."""

import sys
import time
from typing import TextIO

from tqdm import tqdm

LOG_EVERY_S = 30.0


class Progress:
    """Counts what is done and says so on stderr, while lines of others go to stdout without breaking the bar.

    Args:
        total: of what is to be done; None where it is not known.
        unit: its name, e.g. "picture".
        stream: where it goes; None for stderr. Where that is no terminal, a line is written every half minute, and
            one at the end of what took longer.
    """

    def __init__(self, total: int | None, unit: str, stream: TextIO | None = None):
        self.total, self.unit, self.stream = total, unit, stream or sys.stderr
        self.done, self.start = 0, time.monotonic()
        self._said_at, self._said = self.start, 0
        live = self.stream.isatty()
        self._bar = tqdm(total=total, unit=f" {unit}s", file=self.stream, dynamic_ncols=True) if live else None

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bar is not None:
            self._bar.close()
        elif 0 < self._said < self.done and exception[0] is None:
            self._log()

    def step(self, count: int = 1) -> None:
        """So many more are done."""
        self.done += count
        if self._bar is not None:
            self._bar.update(count)
        elif time.monotonic() - self._said_at >= LOG_EVERY_S:
            self._log()

    def say(self, line: str, stream: TextIO | None = None) -> None:
        """Write a line to stdout, or another stream, above the bar."""
        if self._bar is None:
            print(line, file=stream or sys.stdout, flush=True)
        else:
            tqdm.write(line, file=stream or sys.stdout)

    def _log(self) -> None:
        self._said_at, self._said = time.monotonic(), self.done
        elapsed_s = self._said_at - self.start
        rate = self.done / max(elapsed_s, 1e-9)
        of_total = "" if self.total is None else f" of {self.total}"
        left = (
            "" if self.total is None else f", {tqdm.format_interval((self.total - self.done) / max(rate, 1e-9))} left"
        )
        line = f"{self.done}{of_total} {self.unit}s, {tqdm.format_interval(elapsed_s)}, {rate:.2f} a second{left}"
        print(line, file=self.stream, flush=True)
