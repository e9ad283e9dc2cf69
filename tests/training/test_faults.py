"""What goes wrong around a run loses nothing: it ends with a line, and resumed it ends as if nothing had happened.

CONTRIBUTING.md lists the faults with their promises and tests.
"""

import contextlib
import os
import resource
import shutil
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from dinov2_detrex.runtime.files import UNSAFE_PICKLE
from dinov2_detrex.training import checkpoint
from dinov2_detrex.training.checkpoint import RunCheckpoints

pytestmark = pytest.mark.slow

RUN = ("train.max_iter=60", "train.checkpointer.period=4", "train.eval_period=0", "model.pause=0.02", "model.width=64")
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)


def heed_interrupts():
    """A shell's background jobs ignore SIGINT and hand that on; the child here is to be interrupted all the same."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.fixture
def start(command):
    """Start a run in the background: start("name", ...) -> (Popen, folder); none is left behind."""
    started = []

    def run(name, *arguments, preexec=heed_interrupts):
        line, keywords, folder = command(name, *RUN, *arguments)
        streams = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
        started.append(subprocess.Popen(line, preexec_fn=preexec, **streams, **keywords))
        return started[-1], folder

    yield run
    for process in started:
        process.kill()
        process.wait(timeout=60)


@pytest.fixture
def undisturbed(call):
    """What a run without any fault ends with."""
    result, folder = call("undisturbed", *RUN)
    assert result.returncode == 0, result.stderr
    return checkpoint.read(folder / "model_final.pth")


def assert_same(folder, expected):
    """The weights, their average and the optimizer's state, to the last bit."""
    found = checkpoint.read(folder / "model_final.pth")
    for part in ("model", "ema_state"):
        assert found[part].keys() == expected[part].keys()
        assert all(torch.equal(found[part][name], value) for name, value in expected[part].items())
    states = [content["trainer"]["optimizer"]["state"] for content in (found, expected)]
    for index, state in states[1].items():
        assert all(torch.equal(states[0][index][name], torch.as_tensor(value)) for name, value in state.items())


def wait_for(found, process, seconds=120):
    """Until `found()` is true; an AssertionError where the run ends before, or it takes too long."""
    deadline = time.monotonic() + seconds
    while not found():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def the_line(process):
    """The only line on stderr."""
    _, stderr = process.communicate(timeout=120)
    assert stderr.strip().count("\n") == 0, stderr
    return stderr.strip()


def stopped(start, number, seconds):
    """A run that goes on from where it was, and gets the signal so many seconds after its next checkpoint."""
    process, folder = start("run", "--resume")
    before = set(folder.glob("model_*.pth"))
    wait_for(lambda: set(folder.glob("model_*.pth")) - before, process)
    time.sleep(seconds)
    process.send_signal(number)
    process.communicate(timeout=120)
    return process


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_ended_by_a_signal_at_random_moments_a_run_ends_as_an_undisturbed_one(start, call, undisturbed, number):
    rng = np.random.default_rng()
    for _ in range(4):
        process = stopped(start, number, rng.uniform(0, 0.3))
        if process.returncode == 0:  # it was faster
            break
        assert process.returncode == (130 if number == signal.SIGINT else -number)
    result, folder = call("run", "--resume", *RUN)
    assert result.returncode == 0, result.stderr
    assert_same(folder, undisturbed)


def children(pid):
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds the worker through /proc")
def test_when_a_loader_worker_is_killed_the_run_ends_with_a_line_and_can_be_resumed(start, call, undisturbed):
    process, folder = start("run", "dataloader.train.num_workers=1")
    wait_for(lambda: list(folder.glob("model_*.pth")), process)
    for child in children(process.pid):
        os.kill(child, signal.SIGKILL)
    line = the_line(process)
    assert process.returncode == 1 and line.startswith("error: a loader worker was killed"), line
    assert "dataloader.train.num_workers" in line
    assert call("run", "--resume", *RUN)[0].returncode == 0
    assert_same(folder, undisturbed)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 40 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = shutil.which("mount") and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=40m", "tmpfs", folder], capture_output=True
    )
    if not mounted or mounted.returncode:
        pytest.skip("a file system of its own takes root's rights")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def fill(folder):
    """Leave no byte free."""
    with open(folder / "filler", "wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))


def files_of(folder):
    return {path.name: path.read_bytes() for path in folder.glob("*.pth")}


def test_a_disk_that_fills_up_ends_the_run_with_a_line_and_what_was_saved_is_whole(
    start, call, undisturbed, small_disk
):
    process, folder = start("disk/run")
    wait_for(lambda: list(folder.glob("model_*.pth")), process)
    fill(small_disk)
    _, stderr = process.communicate(timeout=120)
    lines = [line for line in stderr.splitlines() if "its lines are lost" not in line]
    assert process.returncode == 1 and len(lines) == 1 and "No space left on device" in lines[0], stderr
    assert "Traceback" not in stderr and not list(folder.glob(".unfinished*"))
    for path in folder.glob("*.pth"):
        assert checkpoint.read(path)["model"]
    (small_disk / "filler").unlink()
    assert call("disk/run", "--resume", *RUN)[0].returncode == 0
    assert_same(folder, undisturbed)


def test_a_checkpoint_that_does_not_fit_leaves_the_one_before(start, call, undisturbed):
    process, folder = start("run")
    wait_for(lambda: len(list(folder.glob("model_*.pth"))) > 1, process)
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=60)
    size, before = min(path.stat().st_size for path in folder.glob("*.pth")), files_of(folder)

    def no_file_that_large():
        resource.setrlimit(resource.RLIMIT_FSIZE, (size - 1000, size - 1000))

    process, _ = start("run", "--resume", preexec=no_file_that_large)
    line = the_line(process)
    assert process.returncode == 1 and line.startswith("error: ") and "File too large" in line, line
    assert files_of(folder) == before and not list(folder.glob(".unfinished*"))
    assert call("run", "--resume", *RUN)[0].returncode == 0
    assert_same(folder, undisturbed)


def test_a_folder_that_can_only_be_read_is_one_line_and_its_run_stays(start, call, undisturbed, small_disk):
    process, folder = start("disk/run")
    wait_for(lambda: list(folder.glob("model_*.pth")), process)
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=60)
    before = files_of(folder)
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    for name, flags in (("disk/run", ()), ("disk/run", ("--resume",)), ("disk/new", ())):
        process, _ = start(name, *flags)
        line = the_line(process)
        assert process.returncode == 1 and line.startswith("error: ") and "Read-only file system" in line, line
    assert files_of(folder) == before
    subprocess.run(["mount", "-o", "remount,rw", small_disk], check=True)
    assert call("disk/run", "--resume", *RUN)[0].returncode == 0
    assert_same(folder, undisturbed)


class Trap:
    """Unpickling this touches a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def replace_truncated(newest, older, trap):
    newest.write_bytes(newest.read_bytes()[:-200])


def replace_swapped(newest, older, trap):
    one, other = newest.read_bytes(), older.read_bytes()
    newest.write_bytes(other)
    older.write_bytes(one)


def replace_malicious(newest, older, trap):
    torch.save(checkpoint.read(newest) | {"trap": Trap(trap)}, newest)


def named_last(folder):
    """(the checkpoint before, the one that resuming begins with): a killed run may have one more, not yet named."""
    newest = RunCheckpoints(folder).newest()
    return [path for path in sorted(folder.glob("model_0*.pth")) if path.name <= newest.name][-2:]


@pytest.mark.parametrize("spoil", [replace_truncated, replace_swapped, replace_malicious])
def test_a_spoilt_newest_checkpoint_executes_nothing_and_the_run_ends_as_undisturbed(
    start, call, undisturbed, tmp_path, spoil
):
    process, folder = start("run")
    wait_for(lambda: len(list(folder.glob("model_*.pth"))) > 2, process)
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=60)
    older, newest = named_last(folder)
    spoil(newest, older, tmp_path / "sprung")
    result, _ = call("run", "--resume", *RUN)
    assert result.returncode == 0, result.stderr
    assert not (tmp_path / "sprung").exists()
    assert UNSAFE_PICKLE in result.stdout if spoil is replace_malicious else True
    assert_same(folder, undisturbed)
