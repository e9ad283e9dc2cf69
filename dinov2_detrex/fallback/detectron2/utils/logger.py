"""Where do log lines go? To stdout with colours on a terminal, and to log.txt in the run's folder."""

import logging
import os
import sys
import time
from collections import Counter
from collections.abc import Mapping

from tabulate import tabulate

from dinov2_detrex.runtime.log_lines import ColorFormatter, send_lines

__all__ = ["create_small_table", "log_every_n", "log_every_n_seconds", "log_first_n", "setup_logger"]


def setup_logger(
    output: str | os.PathLike | None = None,
    distributed_rank: int = 0,
    *,
    color: bool = True,
    name: str = "detectron2",
    abbrev_name: str | None = None,
    enable_propagation: bool = False,
    configure_stdout: bool = True,
) -> logging.Logger:
    """Send the lines of logger `name` to stdout (rank 0 only) and, with `output`, to a file that is appended to.

    Args:
        output: a file ending with .txt or .log, or the folder of `log.txt`; ranks above 0 append `.rank{r}`.
        color: colours on stdout, if it is a terminal.
        abbrev_name: what stands for `name` on stdout; "d2" for "detectron2".

    A later call for the same logger replaces the handlers of earlier ones, so no line is ever written twice.
    """
    logger = logging.getLogger(name)
    abbrev_name = abbrev_name or ("d2" if name == "detectron2" else name)
    formatter = ColorFormatter(name, abbrev_name, color) if configure_stdout else None
    send_lines(logger, output, distributed_rank, formatter)
    logger.propagate = enable_propagation
    return logger


def _caller() -> tuple[str, tuple[str, int]]:
    """(module name, (file, line)) of the first frame outside this file."""
    frame = sys._getframe(2)
    while frame.f_code.co_filename == __file__ and frame.f_back is not None:
        frame = frame.f_back
    module = frame.f_globals.get("__name__", "detectron2")
    return ("detectron2" if module == "__main__" else module), (frame.f_code.co_filename, frame.f_lineno)


_counts: Counter = Counter()
_last_seconds: dict[tuple, float] = {}


def log_first_n(lvl: int, msg: str, n: int = 1, *, name: str | None = None, key: str | tuple = "caller") -> None:
    """Log only the first `n` times, counted per call site ("caller"), per text ("message"), or per both."""
    module, site = _caller()
    keys = (key,) if isinstance(key, str) else tuple(key)
    identity = (*(site if "caller" in keys else ()), *((msg,) if "message" in keys else ()))
    _counts[identity] += 1
    if _counts[identity] <= n:
        logging.getLogger(name or module).log(lvl, msg)


def log_every_n(lvl: int, msg: str, n: int = 1, *, name: str | None = None) -> None:
    """Log the 1st, (n+1)th, (2n+1)th ... time that a call site gets here."""
    module, site = _caller()
    _counts[site] += 1
    if n == 1 or _counts[site] % n == 1:
        logging.getLogger(name or module).log(lvl, msg)


def log_every_n_seconds(lvl: int, msg: str, n: int = 1, *, name: str | None = None) -> None:
    """Log unless the same call site has logged within the last `n` seconds."""
    module, site = _caller()
    now = time.monotonic()
    if site not in _last_seconds or now - _last_seconds[site] >= n:
        logging.getLogger(name or module).log(lvl, msg)
        _last_seconds[site] = now


def create_small_table(small_dict: Mapping[str, float]) -> str:
    """A one-row table with the keys as header and three decimals."""
    keys, values = zip(*small_dict.items())
    return tabulate([values], headers=keys, tablefmt="pipe", floatfmt=".3f", stralign="center", numalign="center")
