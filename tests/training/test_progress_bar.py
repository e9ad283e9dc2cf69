"""A bar is where it is asked for, and neither it nor the log lines are torn, on a terminal and in a log file."""

import io
import os
import re
import struct
import subprocess
import sys

import pytest

from dinov2_detrex.config.train_options import ProgressBarMode
from dinov2_detrex.training.progress_bar import Lines, shows_bar


@pytest.mark.parametrize("mode, tty, shown", [("auto", False, False), ("auto", True, True), ("always", False, True)])
def test_a_bar_is_where_it_is_asked_for(mode, tty, shown, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: tty)
    assert shows_bar(ProgressBarMode(mode)) is shown
    assert not shows_bar(ProgressBarMode.never)


def test_states_of_a_bar_become_lines():
    stream = io.StringIO()
    lines = Lines(stream)
    for text in ("\r 10%|#  | 1/10", "\r 20%|## | 2/10   ", "\n", ""):
        lines.write(text)
    assert stream.getvalue() == "10%|#  | 1/10\n20%|## | 2/10\n"


def test_in_a_log_file_bar_and_log_lines_are_whole_lines(command):
    line, keywords, folder = command("run", "train.max_iter=6", "train.log_period=1", "train.progress_bar=always")
    done = subprocess.run(
        line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300, errors="replace", **keywords
    )
    assert done.returncode == 0, done.stdout
    assert "\r" not in done.stdout
    bars = [one for one in done.stdout.split("\n") if "%|" in one]
    assert bars and all(one.endswith("]") and "%" in one[:4] for one in bars) and "6/6" in bars[-1]
    numbers = [one for one in done.stdout.split("\n") if "d2.utils.events" in one]
    assert len(numbers) == 6 and all(one.startswith("[") for one in numbers)
    assert "\r" not in (folder / "log.txt").read_text()


@pytest.mark.skipif(sys.platform == "win32", reason="has no pseudo-terminals")
def test_on_a_terminal_log_lines_stand_above_the_bar(command):
    import fcntl
    import pty
    import termios

    line, keywords, _ = command("run", "train.max_iter=6", "train.log_period=1", "train.eval_period=3")
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    process = subprocess.Popen(line, stdout=theirs, stderr=theirs, close_fds=True, **keywords)
    os.close(theirs)
    output = b""
    while True:
        try:
            chunk = os.read(ours, 65536)
        except OSError:  # the other end is closed
            break
        if not chunk:
            break
        output += chunk
    assert process.wait(timeout=300) == 0
    text = output.decode(errors="replace")
    assert "6/6" in text
    assert "d2.utils.events" not in text  # the bar shows those numbers
    lines = text.replace("\r\n", "\n").split("\n")
    logged = [one for one in lines if "dinov2_detrex.training" in one]
    seen = [re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", one).rpartition("\r")[2] for one in logged]
    assert seen and all(one.startswith("[") for one in seen)
