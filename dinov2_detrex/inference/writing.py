"""What does `predict` leave in a folder? Results as lines that grow, and pictures or a video with what was found.

predictions.jsonl      a line for each picture that could be read, in order
predictions.json       all detections as one list
0000_name.png          each picture with its objects
0000_clip.jsonl, .mp4  a line for each frame of a video, and the video with its objects
"""

import sys
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from dinov2_detrex.inference.detections import Detections, Selection
from dinov2_detrex.inference.pictures import Picture, count_of
from dinov2_detrex.inference.predictor import Answer, Predictor
from dinov2_detrex.inference.results import JsonLines, line_of, write_flat
from dinov2_detrex.inference.tiles import Tiling
from dinov2_detrex.inference.video import Frame, Tracker, Video, VideoWriter
from dinov2_detrex.runtime.errors import UserError
from dinov2_detrex.runtime.interrupts import Interruptible
from dinov2_detrex.runtime.progress_bar import Progress
from dinov2_detrex.visualization.sheets import draw_detections, save_picture

LINES, FLAT = "predictions.jsonl", "predictions.json"
_DRAWING_THREADS, _DRAWN_AHEAD = 2, 8
_SHOWN_FAILURES = 5


@dataclass(frozen=True)
class Request:
    """What is wanted of pictures and videos alike.

    Attributes:
        folder: to write to.
        selection: which detections.
        tiling: how pictures are cut, None for not.
        drawings: draw what was found.
        track: follow objects through videos.
    """

    folder: Path
    selection: Selection
    tiling: Tiling | None = None
    drawings: bool = True
    track: bool = False


def predict_pictures(predictor: Predictor, pictures: Any, request: Request) -> None:
    """Write what is found in pictures; those that cannot be read are named and left out.

    Args:
        pictures: see `inference.pictures`.

    Raises:
        KeyboardInterrupt: says where the results so far are.
        UserError: at the end, where pictures could not be read; names them.
    """
    answers = predictor.answers(pictures, request.selection, request.tiling)
    total, failures = count_of(pictures), []
    lines = JsonLines(request.folder / LINES)
    try:
        with Interruptible() as interrupt, Progress(total, "picture") as progress, Drawings(progress.say) as drawings:
            for number, answer in enumerate(answers):
                if answer.detections is None:
                    failures.append(" ".join(str(answer.error).split()))
                    progress.say(f"left out: {failures[-1]}", sys.stderr)
                else:
                    lines.write(line_of(answer.detections, file_name=answer.picture.name))
                    _report(answer, answer.detections, number, request, drawings)
                progress.step()
                if interrupt.asked:
                    break
        if interrupt.asked:
            of_total = "" if total is None else f" of {total}"
            raise KeyboardInterrupt(f"the results of {lines.count}{of_total} pictures are in {lines.partial}")
        lines.finish()
        write_flat(lines.path, request.folder / FLAT)
    finally:
        lines.close()
    print(f"all of them are in {request.folder / FLAT}", flush=True)
    if failures:
        raise UserError(_failed(failures, lines.count + len(failures)))


def _report(answer: Answer, found: Detections, number: int, request: Request, drawings: "Drawings") -> None:
    said = f"{answer.picture.name}: {len(found)} objects"
    if not request.drawings:
        drawings.say(said)
        return
    path = request.folder / f"{number:04d}_{Path(answer.picture.name).stem}.png"  # two folders may have one name twice
    drawings.add(lambda: _drawn(answer.picture, found, path), f"{said}, drawn in {path}")


def _drawn(picture: Picture, found: Detections, path: Path) -> None:
    save_picture(draw_detections(picture.read(), found, found.classes.category_ids, found.masks), path)


def _failed(failures: list[str], total: int) -> str:
    shown = "; ".join(failures[:_SHOWN_FAILURES]) + ("; ..." if len(failures) > _SHOWN_FAILURES else "")
    return f"{len(failures)} of {total} pictures could not be read: {shown}"


class Drawings:
    """Draws and saves in threads, beside the model; what follows says what is done, in order, or raises its error.

    Args:
        say: gets a line for each drawing that is saved.
    """

    def __init__(self, say: Callable[[str], None]):
        self.say = say
        self._pool = ThreadPoolExecutor(_DRAWING_THREADS, thread_name_prefix="draw")
        self._waiting: deque[tuple[Future, str]] = deque()

    def add(self, draw: Callable[[], None], line: str) -> None:
        """Do `draw` some time; waits where too much is waiting."""
        self._waiting.append((self._pool.submit(draw), line))
        self._collect(_DRAWN_AHEAD)

    def _collect(self, leave: int) -> None:
        while self._waiting and (len(self._waiting) > leave or self._waiting[0][0].done()):
            drawn, line = self._waiting.popleft()
            drawn.result()
            self.say(line)

    def __enter__(self) -> "Drawings":
        return self

    def __exit__(self, *exception: object) -> None:
        if exception[0] is None:
            self._collect(0)
        self._pool.shutdown(cancel_futures=True)


# ---------------------------------------------------------------------------------------------------------- videos


def predict_video(predictor: Predictor, video: Video, name: str, request: Request, live: bool = False) -> None:
    """Write what is found in a video: NAME.jsonl, a line for each frame, and NAME.mp4.

    Args:
        name: of the files in the request's folder.
        live: an interrupt is how it ends, as a camera does.

    Raises:
        KeyboardInterrupt: says where the results so far are.
        UserError: the video is damaged from some frame on; the results before that are kept under partial names.
    """
    frames = Frames(video)
    answers = predictor.answers(frames, request.selection, request.tiling)
    drawn = Drawn(request.folder / f"{name}.mp4", video) if request.drawings else None
    tracker = Tracker(float(video.fps), request.selection.score_threshold + 0.1) if request.track else None
    lines = JsonLines(request.folder / f"{name}.jsonl")
    try:
        with Interruptible() as interrupt, Progress(video.num_frames, "frame") as progress:
            for answer in answers:
                frame, found = frames.waiting.popleft(), answer.detections
                if found is None:
                    raise UserError(f"frame {frame.number} of {video.source}: {answer.error}")
                found = found if tracker is None else tracker(found)
                lines.write(line_of(found, frame=frame.number, time_s=round(frame.time_s, 6)))
                if drawn is not None:
                    drawn.write(frame, found)
                progress.step()
                if interrupt.asked:
                    break
        if interrupt.asked and not live:
            raise KeyboardInterrupt(f"the results of {lines.count} frames are in {lines.partial}")
        if frames.error is not None:
            raise UserError(f"{frames.error}; the results before are in {lines.partial}") from frames.error
        lines.finish()
        if drawn is not None:
            drawn.finish()
    finally:
        lines.close()
        video.close()
        if drawn is not None:
            drawn.close()
    print(f"{video.source}: {lines.count} frames in {lines.path}{f', drawn in {drawn.path}' if drawn else ''}")


class Frames:
    """The pixels of a video's frames for a predictor, which remembers those that have no answer yet.

    Attributes:
        waiting: they, in order.
        error: what ended the video before its time.
    """

    def __init__(self, video: Video):
        self.video, self.waiting, self.error = video, deque[Frame](), None

    def __iter__(self) -> Iterator[Any]:
        try:
            for frame in self.video:
                self.waiting.append(frame)
                yield frame.pixels
        except UserError as error:
            self.error = error


class Drawn:
    """A video that is opened with its first picture, whose size it has, and closed once."""

    def __init__(self, path: Path, video: Video):
        self.path, self._fps = path, video.fps
        self._writer: VideoWriter | None = None

    def write(self, frame: Frame, found: Detections) -> None:
        picture = draw_detections(Image.fromarray(frame.pixels), found, found.classes.category_ids, found.masks)
        if self._writer is None:
            self._writer = VideoWriter(self.path, self._fps, (picture.height, picture.width))
        self._writer.write(picture, frame.time_s)

    def finish(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.finish()

    def close(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()
