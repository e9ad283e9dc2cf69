"""A video goes in, a line for each frame and a video of the same length come out, whole or under partial names."""

from fractions import Fraction

import pytest
import torch
from detectron2.structures import Boxes, Instances
from PIL import Image

from dinov2_detrex.cli import run_command
from dinov2_detrex.inference import Classes, Detections
from dinov2_detrex.inference.results import lines_of
from dinov2_detrex.inference.video import Tracker, Video, VideoWriter
from dinov2_detrex.runtime.errors import UserError

av = pytest.importorskip("av", reason="the extra video")
FRAMES, FPS = 8, Fraction(10)


def written(path, image_hw=(91, 151), frames=FRAMES):
    """A video of an ever brighter picture."""
    writer = VideoWriter(path, FPS, image_hw)
    for i in range(frames):
        writer.write(Image.new("RGB", image_hw[::-1], (30 * i, 30 * i, 30 * i)), i / 10)
    writer.finish()
    return path


def test_what_is_written_is_what_is_read(tmp_path):
    frames = list(Video(str(written(tmp_path / "a.mp4"))))
    assert [frame.number for frame in frames] == list(range(FRAMES))
    assert [frame.time_s for frame in frames] == pytest.approx([i / 10 for i in range(FRAMES)], abs=0.01)
    assert {frame.pixels.shape for frame in frames} == {(92, 152, 3)}  # even, as the coding wants
    levels = [frame.pixels[:80, :140].mean() for frame in frames]
    assert levels == pytest.approx([30 * i for i in range(FRAMES)], abs=4)
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]


def test_predict_answers_every_frame_and_draws_it(tiny_run, tmp_path):
    path, out = written(tmp_path / "clip.mp4"), tmp_path / "out"
    arguments = ["--run", str(tiny_run.folder), str(path), "--output-dir", str(out), "--score-threshold", "0"]
    assert run_command("predict", arguments) == 0
    lines = list(lines_of(out / "0000_clip.jsonl"))
    assert [line["frame"] for line in lines] == list(range(FRAMES)) and len(lines[0]["detections"]) == 10
    pixels = next(iter(Video(str(path)))).pixels
    assert lines[0]["detections"] == tiny_run.predictor(pixels, 0.0) and lines[0]["width"] == 152
    drawn = list(Video(str(out / "0000_clip.mp4")))
    assert len(drawn) == FRAMES and drawn[0].pixels.shape == (92 * 3, 152 * 3, 3) and drawn[0].pixels.std() > 10
    assert sorted(file.name for file in out.iterdir()) == ["0000_clip.jsonl", "0000_clip.mp4"]


def test_what_is_no_video_is_one_line_before_any_work(tiny_run, tmp_path, capsys):
    (tmp_path / "text.mp4").write_text("no video")
    arguments = ["--run", str(tiny_run.folder), "--output-dir", str(tmp_path / "out"), str(tmp_path / "text.mp4")]
    assert run_command("predict", arguments) == 1
    assert "text.mp4 cannot be opened as a video" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_a_camera_is_read_by_the_name_that_ffmpeg_gives_it():
    camera = Video("testsrc=size=64x48:rate=5:duration=1", "lavfi")
    frames = list(camera)
    assert len(frames) == 5 and frames[0].pixels.shape == (48, 64, 3)
    with pytest.raises(UserError, match="cannot be opened as a video"):
        Video.camera("77")


def test_an_object_that_moves_keeps_its_number(tmp_path):
    pytest.importorskip("trackers", reason="the extra track")
    tracker, classes = Tracker(10.0, 0.4), Classes(["newt"], [1])
    numbers = []
    for i in range(8):
        boxes = [[10.0 + 4 * i, 20, 50 + 4 * i, 60], [200.0, 20, 240, 60]][: 1 if i == 4 else 2]
        order = torch.arange(len(boxes)).flip(0)
        instances = Instances(
            (100, 300),
            pred_boxes=Boxes(torch.tensor(boxes)[order]),
            scores=torch.full((len(boxes),), 0.9),
            pred_classes=torch.zeros(len(boxes), dtype=torch.int64),
        )
        found = tracker(Detections(instances, classes))
        assert len(found) == len(boxes)
        numbers.append({row["bbox"][0] > 150: row["track_id"] for row in found})
    assert len({number[False] for number in numbers[3:]}) == 1 and None not in numbers[-1].values()
    assert numbers[-1][False] != numbers[-1][True] == numbers[3][True]
    empty = Detections(instances[:0], classes)
    assert len(tracker(empty)) == 0
