"""Files of tensors are read without running their code, and what is written is whole or absent, whatever happens."""

import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from dinov2_detrex.runtime import files
from dinov2_detrex.runtime.files import NeedsUnpickling, NoStateDict, UnreadableFile

WEIGHT = torch.arange(6.0).reshape(2, 3)
KINDS = ("zip", "legacy", "safetensors", "pickle")


class Trap:
    """Unpickling this makes a folder."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def save(kind: str, path: Path, **more) -> Path:
    """A file of that kind with the weight and `more`."""
    if kind == "safetensors":
        save_file({"w": WEIGHT}, path)
    elif kind == "pickle":
        path.write_bytes(pickle.dumps({"w": WEIGHT.numpy(), **more}))
    else:
        torch.save({"w": WEIGHT, **more}, path, _use_new_zipfile_serialization=kind == "zip")
    return path


def refusal(path, kind=UnreadableFile) -> str:
    with pytest.raises(kind) as caught:
        files.read(path)
    message = str(caught.value)
    assert "\n" not in message and str(path) in message
    return message


@pytest.mark.parametrize("memory_map", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_file_is_told_by_its_content_whatever_its_name(kind, memory_map, tmp_path):
    content = files.read(save(kind, tmp_path / "weights.anything"), memory_map=memory_map)
    assert list(content) == ["w"] and torch.equal(torch.as_tensor(content["w"]), WEIGHT)


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_memory_mapped_tensors_stay_in_their_file_and_others_do_not(tmp_path):
    path = save("zip", tmp_path / "a.pth")

    def is_mapped() -> bool:
        return str(path) in Path("/proc/self/maps").read_text()

    content = files.read(path)
    assert not is_mapped()
    content = files.read(path, memory_map=True)
    assert is_mapped() and content
    content["w"].add_(1)  # is a copy of its own as soon as it is written to
    assert torch.equal(files.read(path)["w"], WEIGHT)


@pytest.mark.parametrize("kind", KINDS)
def test_a_truncated_file_is_one_line_that_says_so(kind, tmp_path):
    path = save(kind, tmp_path / "a.pth")
    path.write_bytes(path.read_bytes()[:-30])
    assert "a.pth is damaged or no checkpoint: " in (message := refusal(path))
    assert "truncated" in message or kind == "legacy"  # which torch says in words of its own


def test_what_is_no_file_of_tensors_is_one_line_that_says_what_it_is(tmp_path):
    (tmp_path / "empty.pth").touch()
    assert "it is empty" in refusal(tmp_path / "empty.pth")
    (tmp_path / "lfs.pth").write_text("version https://git-lfs.github.com/spec/v1\n")
    assert "it begins with b'version http'" in refusal(tmp_path / "lfs.pth")
    assert "does not exist" in refusal(tmp_path / "absent.pth")
    assert "Is a directory" in refusal(tmp_path)


@pytest.mark.parametrize("kind", ["zip", "legacy", "pickle"])
def test_a_file_that_would_run_code_is_refused_until_that_is_allowed(kind, tmp_path, monkeypatch):
    path = save(kind, tmp_path / "a.pth", trap=Trap(tmp_path / "sprung"))
    message = refusal(path, NeedsUnpickling)
    assert "mkdir" in message and "DINOV2_DETREX_UNSAFE_PICKLE=1" in message
    monkeypatch.setenv(files.UNSAFE_PICKLE, "0")
    refusal(path, NeedsUnpickling)
    assert not (tmp_path / "sprung").exists()
    monkeypatch.setenv(files.UNSAFE_PICKLE, "1")
    assert torch.equal(torch.as_tensor(files.read(path)["w"]), WEIGHT)
    assert (tmp_path / "sprung").is_dir()


def test_the_files_structure_tells_what_is_refused_from_what_is_damaged_not_torchs_words(tmp_path, monkeypatch):
    def refuse(*args, **options):
        raise pickle.UnpicklingError("in the words of another torch")

    monkeypatch.setattr(torch, "load", refuse)
    path = save("zip", tmp_path / "a.pth")
    assert "holds more than tensors and plain values" in refusal(path, NeedsUnpickling)
    path.write_bytes(path.read_bytes()[:-30])
    assert "truncated" in refusal(path)


@pytest.mark.parametrize(
    "content, others",
    [({"w": WEIGHT}, set()), ({"model": {"w": WEIGHT}, "iteration": 3}, {"iteration"})]
    + [({"state_dict": {"w": WEIGHT}, "epoch": 3}, {"epoch"}), ({"w": np.ones(2)}, set())],
)
def test_the_state_dict_of_a_checkpoint_is_found_wherever_programs_put_it(content, others, tmp_path, monkeypatch):
    monkeypatch.setattr(files, "read", lambda path, memory_map=False: content)
    found = files.read_checkpoint("a.pth")
    assert set(found) == {"model"} | others and list(found["model"]) == ["w"]


@pytest.mark.parametrize("content, words", [({"weights": {}, "epoch": 3}, "'weights', 'epoch'"), ([1], "a list")])
def test_a_file_without_a_state_dict_is_named_with_what_it_holds(content, words, tmp_path):
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(NoStateDict, match=f"a.pth .*{words}"):
        files.read_checkpoint(tmp_path / "a.pth")


# --- writing


def test_a_write_makes_the_folder_and_heeds_the_umask(tmp_path):
    files.write_json(tmp_path / "new" / "a.json", {"x": 1})
    assert (tmp_path / "new" / "a.json").read_text() == '{"x": 1}'
    before = os.umask(0o027)
    try:
        files.write_text(tmp_path / "b.txt", "é")
    finally:
        os.umask(before)
    assert (tmp_path / "b.txt").read_bytes() == "é".encode()
    assert (tmp_path / "b.txt").stat().st_mode & 0o777 == 0o640


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    files.write(tmp_path / "a.pth", {"w": WEIGHT})
    with pytest.raises(Exception, match="lambda"):
        files.write(tmp_path / "a.pth", {"w": lambda: 0})
    assert torch.equal(files.read(tmp_path / "a.pth")["w"], WEIGHT)
    assert [path.name for path in tmp_path.iterdir()] == ["a.pth"]


KILLED = """
import os, signal, sys
from dinov2_detrex.runtime import files
with files.atomic_write(sys.argv[1]) as file:
    file.write(b"half")
    file.flush()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_write_leaves_the_old_file_and_a_rest_that_is_no_checkpoint(tmp_path, python, python_env):
    path = tmp_path / "a.pth"
    path.write_text("old")
    killed = subprocess.run([python, "-c", KILLED, path], env=python_env, timeout=300)
    assert killed.returncode == -signal.SIGKILL and path.read_text() == "old"
    assert list(tmp_path.glob("*.pth")) == [path] and len(list(tmp_path.iterdir())) == 2
    files.remove_unfinished(tmp_path)
    assert list(tmp_path.iterdir()) == [path]


def _write_often(path: Path, letter: str) -> None:
    for _ in range(40):
        files.write_text(path, letter * 200_000)


def test_processes_that_write_one_file_at_once_leave_one_whole_version_of_it(tmp_path):
    path = tmp_path / "shared.txt"
    _write_often(path, "a")
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_write_often, args=(path, letter)) for letter in "bcd"]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        text = path.read_text()
        assert len(text) == 200_000 and len(set(text)) == 1
    assert [writer.exitcode for writer in writers] == [0, 0, 0]
    assert [found.name for found in tmp_path.iterdir()] == ["shared.txt"]
