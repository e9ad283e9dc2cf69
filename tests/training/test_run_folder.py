"""A run's folder is its own: a second run is refused, and an earlier run is moved aside instead of written over."""

import fcntl
import os
import signal
import subprocess
import time

import pytest

from dinov2_detrex.runtime.errors import UserError
from dinov2_detrex.training import checkpoint
from dinov2_detrex.training.checkpoint import RunCheckpoints
from dinov2_detrex.training.run_folder import LOCK, only_run_in, set_aside

SHORT = ("train.max_iter=2", "train.eval_period=0")
HOLDER = """
import sys, time
from pathlib import Path
from dinov2_detrex.training.run_folder import only_run_in
with only_run_in(Path(sys.argv[1])):
    print("locked", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def holder(python, python_env, tmp_path):
    """Another process that has locked the folder."""
    process = subprocess.Popen([python, "-c", HOLDER, tmp_path], env=python_env, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "locked\n"
    yield process
    process.kill()
    process.wait(timeout=60)


def test_a_second_run_in_a_folder_is_one_line_with_folder_and_process(holder, tmp_path):
    with pytest.raises(UserError) as caught, only_run_in(tmp_path):
        pass
    message = str(caught.value)
    assert f"train.output_dir={tmp_path} (process {holder.pid} on " in message and "\n" not in message


def test_a_run_that_was_killed_locks_nothing(holder, tmp_path):
    holder.kill()
    holder.wait(timeout=60)
    assert (tmp_path / LOCK).exists()
    with only_run_in(tmp_path):
        assert str(os.getpid()) in (tmp_path / LOCK).read_text()
    assert not (tmp_path / LOCK).exists()


def test_a_lock_file_that_was_replaced_meanwhile_is_not_taken_for_the_lock(tmp_path, monkeypatch):
    lockf, calls = fcntl.lockf, []

    def replaced_first(descriptor, flags):
        lockf(descriptor, flags)
        calls.append(os.fstat(descriptor).st_ino)
        if len(calls) == 1:  # the run before ends between our opening and our locking
            (tmp_path / "new").write_text("")
            os.replace(tmp_path / "new", tmp_path / LOCK)

    monkeypatch.setattr("dinov2_detrex.training.run_folder.fcntl.lockf", replaced_first)
    with only_run_in(tmp_path):
        assert len(calls) == 2 and (tmp_path / LOCK).stat().st_ino == calls[1]


@pytest.mark.parametrize("number", ["ENOLCK", "EROFS"])
def test_where_there_are_no_locks_a_run_goes_on_without(tmp_path, monkeypatch, number):
    def refuse(*arguments):
        raise OSError(getattr(__import__("errno"), number), "no locks here")

    monkeypatch.setattr("dinov2_detrex.training.run_folder.fcntl.lockf", refuse)
    with only_run_in(tmp_path):
        pass


def files_below(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_fresh_run_moves_an_earlier_one_aside_and_says_so_once(train, capfd):
    _, folder = train("run", *SHORT)
    earlier = files_below(folder)
    capfd.readouterr()
    assert train("run", *SHORT, "train.seed=8")[0] == 0
    lines = [line for line in capfd.readouterr().out.splitlines() if "holds another run" in line]
    assert len(lines) == 1 and str(folder / "earlier-1") in lines[0] and "--resume" in lines[0]
    moved = files_below(folder / "earlier-1")
    assert {"model_final.pth", "last_checkpoint", "config.yaml", "metrics.json"} <= moved.keys()
    assert all(earlier[name] == content for name, content in moved.items())
    assert train("run", *SHORT)[0] == 0 and (folder / "earlier-2" / "model_final.pth").is_file()
    assert checkpoint.read(folder / "earlier-1" / "model_final.pth")["trainer"]["seed"] == 7
    assert checkpoint.read(folder / "earlier-2" / "model_final.pth")["trainer"]["seed"] == 8


@pytest.mark.parametrize(
    "broken",
    ["model.width=-1", "optimizer.params.base_lr=[]", "lr_multiplier.scheduler.values=[]", "model.dropout=7"],
)
def test_a_run_that_cannot_be_built_leaves_an_earlier_one_as_it_is(train, broken):
    _, folder = train("run", *SHORT)
    before = files_below(folder)
    assert train("run", *SHORT, broken)[0] != 0
    after = files_below(folder)
    assert {name: after[name] for name in before if name != "log.txt"} == {
        name: content for name, content in before.items() if name != "log.txt"
    }
    assert after.keys() == before.keys()


def test_resuming_moves_nothing(train):
    _, folder = train("run", *SHORT)
    assert train("run", "--resume", "train.max_iter=3", "train.eval_period=0")[0] == 0
    assert not list(folder.glob("earlier-*"))


def test_files_of_others_stay_where_they_are(tmp_path):
    for name in ("model_0000004.pth", "last_checkpoint", "notes.txt", "model_zoo.pth", "log.txt"):
        (tmp_path / name).write_text(name)
    (tmp_path / "earlier-1").mkdir()
    assert set_aside(RunCheckpoints(tmp_path)) == tmp_path / "earlier-2"
    assert sorted(path.name for path in (tmp_path / "earlier-2").iterdir()) == ["last_checkpoint", "model_0000004.pth"]
    assert {path.name for path in tmp_path.iterdir() if path.is_file()} == {"log.txt", "model_zoo.pth", "notes.txt"}
    assert set_aside(RunCheckpoints(tmp_path)) is None


@pytest.mark.slow
def test_while_a_run_trains_a_second_one_is_refused_and_an_evaluation_is_not(command, call):
    line, keywords, folder = command("run", "train.max_iter=100000", "model.pause=0.02", "train.checkpointer.period=5")
    process = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **keywords)
    try:
        while not list(folder.glob("model_*.pth")) and process.poll() is None:
            time.sleep(0.05)
        before = (folder / "config.yaml").read_bytes()
        for flags in ((), ("--resume",)):
            second, _ = call("run", "train.max_iter=3", *flags)
            assert second.returncode == 1 and second.stderr.strip().count("\n") == 0, second.stderr
            assert f"process {process.pid} on " in second.stderr and str(folder) in second.stderr
        evaluated, _ = call("run", "--eval-only", f"train.init_checkpoint={next(folder.glob('model_*.pth'))}")
        assert evaluated.returncode == 0, evaluated.stderr
        assert process.poll() is None and (folder / "config.yaml").read_bytes() == before
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait(timeout=60)
    assert not list(folder.glob("earlier-*"))
