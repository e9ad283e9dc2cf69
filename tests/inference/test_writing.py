"""`predict` leaves whole files under final names, names what it cannot read, and loses nothing when it is stopped."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from dinov2_detrex.cli import run_command
from dinov2_detrex.inference.results import JsonLines, lines_of, write_flat
from dinov2_detrex.runtime.interrupts import Interruptible
from dinov2_detrex.runtime.progress_bar import Progress


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.fixture
def pictures(tmp_path):
    """A folder of three pictures and one that is none."""
    folder = tmp_path / "in"
    (folder / "deep").mkdir(parents=True)
    for i, name in enumerate(("a.png", "c.jpg", "deep/d.png")):
        Image.fromarray(noise(40, 60, i)).save(folder / name)
    (folder / "b.png").write_text("no picture")
    return folder


def predict(tiny_run, *arguments):
    return run_command("predict", ["--run", str(tiny_run.folder), *map(str, arguments)])


def test_a_folder_is_answered_in_order_and_what_is_unreadable_is_named_and_counted(
    tiny_run, pictures, tmp_path, capsys
):
    out = tmp_path / "out"
    assert predict(tiny_run, pictures, "--output-dir", out, "--score-threshold", 0) == 1
    lines = list(lines_of(out / "predictions.jsonl"))
    assert [line["file_name"] for line in lines] == [str(pictures / n) for n in ("a.png", "c.jpg", "deep/d.png")]
    assert {(line["width"], line["height"], len(line["detections"])) for line in lines} == {(60, 40, 10)}
    flat = json.loads((out / "predictions.json").read_text())
    assert flat == [{"file_name": line["file_name"]} | row for line in lines for row in line["detections"]]
    drawings = sorted(path.name for path in out.glob("*.png"))
    assert drawings == ["0000_a.png", "0002_c.png", "0003_d.png"]
    assert sorted(path.name for path in out.iterdir() if path.suffix != ".png") == [
        "predictions.json",
        "predictions.jsonl",
    ]
    captured = capsys.readouterr()
    assert captured.out.count("10 objects, drawn in") == 3 and f"left out: {pictures / 'b.png'}" in captured.err
    last = captured.err.strip().splitlines()[-1]
    assert last.startswith(f"error: 1 of 4 pictures could not be read: {pictures / 'b.png'}")


def test_thresholds_classes_and_numbers_are_flags(tiny_run, pictures, tmp_path):
    out, first = tmp_path / "out", pictures / "a.png"

    def rows(*flags):
        assert predict(tiny_run, first, "--output-dir", out, "--no-drawings", *flags) == 0
        return json.loads((out / "predictions.json").read_text())

    everything = rows("--score-threshold", 0)
    names = {row["category_name"] for row in everything}
    assert len(everything) == 10 and len(names) > 1 and not list(out.glob("*.png"))
    name = everything[0]["category_name"]
    assert rows("--score-threshold", 0, "--class", name) == [r for r in everything if r["category_name"] == name]
    assert rows("--score-threshold", 0, "--top-k", 3) == everything[:3]
    of_one = rows("--score-threshold", 1, "--class-threshold", f"{name}=0")
    assert of_one == [row for row in everything if row["category_name"] == name]
    assert rows("--score-threshold", 0, "--batch-size", 2, "--tile", 60) == everything


@pytest.mark.parametrize(
    "arguments, status, words",
    [
        (("--class-threshold", "newt"), 2, "NAME=SCORE is needed"),
        (("--class-threshold", "newt=2"), 2, "from 0 to 1"),
        (("--class", "nwet"), 2, "did you mean newt?"),
        (("--package-thresholds",), 1, "only a model package has thresholds"),
        (("--device", "gpu"), 2, "no device of torch"),
        (("--weights", "best"), 1, "has no model_best.pth"),
        (("--weights", "absent.pth"), 1, "absent.pth does not exist"),
    ],
)
def test_wrong_flags_are_one_line_before_any_work(tiny_run, pictures, tmp_path, arguments, status, words, capsys):
    assert predict(tiny_run, pictures / "a.png", "--output-dir", tmp_path / "out", *arguments) == status
    assert words in capsys.readouterr().err.strip().splitlines()[-1]
    assert not (tmp_path / "out").exists()


def test_an_empty_folder_is_one_line(tiny_run, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert predict(tiny_run, tmp_path / "empty", "--output-dir", tmp_path / "out") == 1
    assert "there is no picture below the folder" in capsys.readouterr().err


def test_an_interrupt_keeps_all_answers_and_gives_no_final_name(tiny_run, tmp_path, python, python_env):
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    for i in range(300):
        Image.fromarray(noise(300, 400, i)).save(folder / f"{i:03d}.png", compress_level=0)
    line = [python, "-c", "import sys; from dinov2_detrex.cli import main; sys.exit(main())"]
    line += ["predict", "--run", str(tiny_run.folder), str(folder), "--output-dir", str(out)]
    process = subprocess.Popen(line, env=python_env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    for _ in range(3):
        assert "objects, drawn in" in process.stdout.readline()
    process.send_signal(signal.SIGINT)
    said, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    lines = list(lines_of(out / "predictions.partial.jsonl"))
    assert 3 <= len(lines) < 300 and f"the results of {len(lines)} of 300 pictures are in" in errors
    assert len(list(out.glob("*.png"))) >= len(lines)
    assert len(lines) - 3 - said.count("drawn in") in (0, 1)  # the last may be written and not told
    assert not list(out.glob("predictions.json*")) and not list(out.glob(".unfinished*"))


def test_lines_are_on_the_disk_at_once_and_what_is_left_is_never_overwritten(tmp_path):
    lines = JsonLines(tmp_path / "p.jsonl")
    lines.write({"file_name": "a", "detections": [{"score": 1}]})
    assert list(lines_of(lines.partial)) == [{"file_name": "a", "detections": [{"score": 1}]}]
    lines.close()
    again = JsonLines(tmp_path / "p.jsonl")
    again.write({"file_name": "b", "detections": []})
    again.finish()
    assert sorted(os.listdir(tmp_path)) == ["p.jsonl", "p.partial.jsonl"]
    write_flat(tmp_path / "p.jsonl", tmp_path / "p.json")
    assert json.loads((tmp_path / "p.json").read_text()) == []


def test_the_first_interrupt_asks_and_the_second_insists():
    with Interruptible() as interrupt:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.01)
        assert interrupt.asked
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(1)


def test_a_log_gets_lines_and_no_control_characters(capsys, monkeypatch):
    from dinov2_detrex.runtime import progress_bar

    monkeypatch.setattr(progress_bar, "LOG_EVERY_S", 0.0)
    with Progress(2, "picture", sys.stderr) as progress:
        progress.step()
        progress.say("a.jpg: 3 objects")
        progress.step()
    captured = capsys.readouterr()
    assert captured.out == "a.jpg: 3 objects\n" and "\r" not in captured.err
    assert captured.err.startswith("1 of 2 pictures, 00:00") and captured.err.splitlines()[-1].startswith("2 of 2")
