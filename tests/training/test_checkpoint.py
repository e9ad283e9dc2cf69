"""A run on disk: nothing is lost by a kill in the middle of a save, and nothing runs code while it is read."""

import argparse
import signal
import subprocess

import pytest
import torch

from dinov2_detrex.runtime.files import UNSAFE_PICKLE, UnreadableFile
from dinov2_detrex.training import checkpoint
from dinov2_detrex.training.checkpoint import RunCheckpoints, refuse_non_finite
from dinov2_detrex.training.errors import TrainingDiverged


def content(iteration):
    return {"model": {"w": torch.full((3,), float(iteration))}, "iteration": iteration}


def save_all(checkpoints, iterations):
    for i in iterations:
        checkpoints.save(f"model_{i:07d}", content(i))


def test_the_newest_checkpoint_comes_back_as_it_was_saved(tmp_path):
    checkpoints = RunCheckpoints(tmp_path)
    save_all(checkpoints, [1, 3])
    path, saved = checkpoints.load_newest()
    assert path.name == "model_0000003.pth" and saved["iteration"] == 3
    assert torch.equal(saved["model"]["w"], torch.full((3,), 3.0))


def test_without_a_checkpoint_there_is_nothing_to_load(tmp_path):
    assert RunCheckpoints(tmp_path / "missing").load_newest() is None


def test_only_the_newest_periodic_files_stay_and_those_of_earlier_starts_count(tmp_path):
    save_all(RunCheckpoints(tmp_path), [1, 3, 5])
    later = RunCheckpoints(tmp_path, max_to_keep=2)
    (tmp_path / "model_best.pth").touch()
    later.save("model_0000007", content(7))
    later.save("model_final", content(8))
    assert [p.name for p in later.periodic()] == ["model_0000005.pth", "model_0000007.pth"]
    assert (tmp_path / "model_best.pth").exists() and later.newest().name == "model_final.pth"


@pytest.mark.parametrize("damage", ["truncate", "delete", "foreign"])
def test_a_damaged_newest_checkpoint_is_passed_over_for_the_one_before(tmp_path, damage):
    checkpoints = RunCheckpoints(tmp_path)
    save_all(checkpoints, [1, 3])
    newest = checkpoints.newest()
    if damage == "truncate":
        newest.write_bytes(newest.read_bytes()[:-100])
    elif damage == "delete":
        newest.unlink()
    else:
        newest.write_text("not a checkpoint")
    assert checkpoints.load_newest()[1]["iteration"] == 1


def test_when_every_checkpoint_is_damaged_the_error_names_one(tmp_path):
    checkpoints = RunCheckpoints(tmp_path)
    save_all(checkpoints, [1])
    checkpoints.newest().write_text("x")
    with pytest.raises(UnreadableFile, match="model_0000001.pth"):
        checkpoints.load_newest()


class Trap:
    """Unpickling this touches a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_a_file_that_would_run_code_is_refused_with_the_way_to_opt_in(tmp_path, monkeypatch):
    torch.save({"model": {}, "trap": Trap(tmp_path / "sprung")}, tmp_path / "bad.pth")
    with pytest.raises(UnreadableFile) as caught:
        checkpoint.read(tmp_path / "bad.pth")
    assert not (tmp_path / "sprung").exists()
    assert "bad.pth" in str(caught.value) and UNSAFE_PICKLE in str(caught.value)


def test_a_file_with_harmless_extras_is_read_after_opting_in(tmp_path, monkeypatch):
    torch.save({"model": {}, "args": argparse.Namespace(lr=1)}, tmp_path / "a.pth")
    with pytest.raises(UnreadableFile, match="Namespace"):
        checkpoint.read(tmp_path / "a.pth")
    monkeypatch.setenv(UNSAFE_PICKLE, "1")
    assert checkpoint.read(tmp_path / "a.pth")["args"].lr == 1


def test_a_write_that_fails_leaves_the_old_file_and_no_rest(tmp_path):
    checkpoint.write(tmp_path / "a.pth", content(1))
    with pytest.raises(AttributeError):
        checkpoint.write(tmp_path / "a.pth", {"x": lambda: 0})
    assert checkpoint.read(tmp_path / "a.pth")["iteration"] == 1
    assert [p.name for p in tmp_path.iterdir()] == ["a.pth"]


WRITER = """
import os, signal, sys, torch
import dinov2_detrex
from dinov2_detrex.training.checkpoint import RunCheckpoints

class KillsWhileSaved:
    def __reduce__(self):
        os.kill(os.getpid(), signal.SIGKILL)

checkpoints = RunCheckpoints(sys.argv[1])
checkpoints.save("model_final", {"model": {"w": torch.ones(1000)}, "iteration": 1})
checkpoints.save("model_final", {"model": {"w": torch.zeros(1000)}, "iteration": 2, "x": KillsWhileSaved()})
"""


def test_killed_in_the_middle_of_replacing_a_file_a_run_leaves_the_old_one_whole(tmp_path, python, python_env):
    process = subprocess.run([python, "-c", WRITER, tmp_path], env=python_env, timeout=300)
    assert process.returncode == -signal.SIGKILL
    saved = checkpoint.read(tmp_path / "model_final.pth")
    assert saved["iteration"] == 1 and saved["model"]["w"].all()
    later = RunCheckpoints(tmp_path)
    assert later.load_newest()[1]["iteration"] == 1
    later.save("model_final", content(3))
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "last_checkpoint",
        "model_final.pth",
    ]  # no rest of the killed one


def test_weights_that_are_not_finite_are_not_saved_over_good_ones():
    good = {"a": torch.ones(2), "count": torch.ones((), dtype=torch.long)}
    refuse_non_finite(good, 4)
    with pytest.raises(TrainingDiverged, match="'b'.*iteration 4"):
        refuse_non_finite(good | {"b": torch.tensor([1.0, float("nan")])}, 4)
