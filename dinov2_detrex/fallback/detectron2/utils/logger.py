"""Where do log lines go? To stdout with colours on a terminal, and to log.txt in the run's folder."""

import atexit
import logging
import os
import sys
import time
from collections import Counter
from collections.abc import Mapping

from tabulate import tabulate
from termcolor import colored

__all__ = ["create_small_table", "log_every_n", "log_every_n_seconds", "log_first_n", "setup_logger"]

_ROLE = "_detectron2_role"  # marks our handlers: "stdout" or the file's absolute path


class _ColorFormatter(logging.Formatter):
    """Green prefix, marked warnings and errors; plain text where the stream is no terminal."""

    MARKS = {logging.WARNING: "yellow", logging.ERROR: "red", logging.CRITICAL: "red"}

    def __init__(self, name: str, abbrev_name: str, color: bool):
        super().__init__(datefmt="%m/%d %H:%M:%S")
        self.name = name
        self.abbrev_name = abbrev_name
        self.color = color

    def formatMessage(self, record: logging.LogRecord) -> str:
        name = self.abbrev_name + record.name.removeprefix(self.name)
        prefix = self._paint(f"[{self.formatTime(record, self.datefmt)} {name}]:", "green") + " "
        if record.levelno in self.MARKS:
            prefix += self._paint(record.levelname, self.MARKS[record.levelno]) + " "
        return prefix + record.message

    def _paint(self, text: str, color: str) -> str:
        return colored(text, color, force_color=True) if self.color else text


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
    logger.setLevel(logging.DEBUG)
    logger.propagate = enable_propagation
    if configure_stdout:
        _remove_handlers(logger, keep=lambda role: role != "stdout")
        if distributed_rank == 0:
            _add_stdout(logger, abbrev_name or ("d2" if name == "detectron2" else name), color)
    if output is not None:
        path = _log_file(os.fspath(output), distributed_rank)
        _remove_handlers(logger, keep=lambda role: role in ("stdout", path))
        _add_file(logger, path)
    return logger


def _remove_handlers(logger: logging.Logger, keep) -> None:
    for handler in list(logger.handlers):
        role = getattr(handler, _ROLE, None)
        if role is not None and not keep(role):
            logger.removeHandler(handler)
            handler.close()


def _add_stdout(logger: logging.Logger, abbrev_name: str, color: bool) -> None:
    handler = logging.StreamHandler(stream=sys.stdout)
    handler.setFormatter(_ColorFormatter(logger.name, abbrev_name, color and sys.stdout.isatty()))
    setattr(handler, _ROLE, "stdout")
    logger.addHandler(handler)


def _add_file(logger: logging.Logger, path: str) -> None:
    if any(getattr(handler, _ROLE, None) == path for handler in logger.handlers):
        return
    os.makedirs(os.path.dirname(path), exist_ok=True)
    handler = logging.FileHandler(path, mode="a", encoding="utf-8")
    handler.setFormatter(
        logging.Formatter("[%(asctime)s] %(name)s %(levelname)s: %(message)s", datefmt="%m/%d %H:%M:%S")
    )
    setattr(handler, _ROLE, path)
    logger.addHandler(handler)
    atexit.register(handler.close)


def _log_file(output: str, rank: int) -> str:
    path = output if output.endswith((".txt", ".log")) else os.path.join(output, "log.txt")
    return os.path.abspath(path if rank == 0 else f"{path}.rank{rank}")


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
