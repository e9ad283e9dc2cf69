"""Where do log lines go? To stdout, with colours on a terminal, and to a file that is appended to."""

import atexit
import contextlib
import logging
import os
import sys
from typing import TextIO

from termcolor import colored

_TARGET = "_dinov2_detrex_target"  # marks our handlers: "stdout" or the file's absolute path
_TIME = "%m/%d %H:%M:%S"


class ColorFormatter(logging.Formatter):
    """Green prefix, marked warnings and errors; plain text where stdout is no terminal.

    Args:
        name: of the logger.
        abbrev_name: what stands for `name` in its lines and in those of its children.
        color: False for plain text everywhere.
    """

    MARKS = {logging.WARNING: "yellow", logging.ERROR: "red", logging.CRITICAL: "red"}

    def __init__(self, name: str, abbrev_name: str, color: bool = True):
        super().__init__(datefmt=_TIME)
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
        return colored(text, color, force_color=True) if self.color and sys.stdout.isatty() else text


class StdoutHandler(logging.StreamHandler):
    """Writes to what `sys.stdout` is when the line comes, so that it never holds on to a stream that was closed."""

    def __init__(self):
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:
        return sys.stdout


class LogFileHandler(logging.FileHandler):
    """Appends to a file; where that fails, on a full disk mostly, one line on stderr says so, and lines are lost."""

    _failed = False

    def handleError(self, record: logging.LogRecord) -> None:
        """Instead of a traceback for every line."""
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
        elif not self._failed:
            self._failed = True
            print(f"{self.baseFilename} cannot be written, its lines are lost: {error.strerror}", file=sys.stderr)

    def close(self) -> None:
        """As in logging; what a full disk does not take is lost."""
        with contextlib.suppress(OSError):
            super().close()


def send_lines(
    logger: logging.Logger,
    output: str | os.PathLike | None = None,
    rank: int = 0,
    formatter: logging.Formatter | None = None,
) -> None:
    """Send what the logger is given, of every level, to stdout (rank 0 alone) and to a file, once each.

    Handlers of earlier calls for the same logger are replaced, a file's only by another file; handlers of others stay.

    Args:
        logger: hands nothing on to its parents afterwards.
        output: a file ending with .txt or .log, or the folder of `log.txt`; ranks above 0 append `.rank{r}`.
        rank: of this process.
        formatter: of the lines on stdout; None leaves stdout as it is.

    Raises:
        OSError: the file or its folder cannot be written.
    """
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    if formatter is not None:
        _remove_handlers(logger, stdout=True)
        if rank == 0:
            _add(logger, StdoutHandler(), formatter, "stdout")
    if output is not None:
        path = log_file(output, rank)
        _remove_handlers(logger, stdout=False, keep=path)
        _add_file(logger, path)


def log_file(output: str | os.PathLike, rank: int) -> str:
    """The absolute path of the file that `send_lines` appends to."""
    name = os.fspath(output)
    path = name if name.endswith((".txt", ".log")) else os.path.join(name, "log.txt")
    return os.path.abspath(path if rank == 0 else f"{path}.rank{rank}")


def _remove_handlers(logger: logging.Logger, stdout: bool, keep: str = "") -> None:
    for handler in list(logger.handlers):
        target = getattr(handler, _TARGET, None)
        if target is not None and target != keep and (target == "stdout") is stdout:
            logger.removeHandler(handler)
            handler.close()


def _add_file(logger: logging.Logger, path: str) -> None:
    if any(getattr(handler, _TARGET, None) == path for handler in logger.handlers):
        return
    os.makedirs(os.path.dirname(path), exist_ok=True)
    handler = LogFileHandler(path, mode="a", encoding="utf-8")
    _add(logger, handler, logging.Formatter("[%(asctime)s] %(name)s %(levelname)s: %(message)s", datefmt=_TIME), path)
    atexit.register(handler.close)


def _add(logger: logging.Logger, handler: logging.Handler, formatter: logging.Formatter, target: str) -> None:
    handler.setFormatter(formatter)
    setattr(handler, _TARGET, target)
    logger.addHandler(handler)
