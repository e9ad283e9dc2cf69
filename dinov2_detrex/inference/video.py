"""How are videos and cameras read, and a video with its objects written? PyAV, the extra `video`, does the coding."""

import platform
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from dinov2_detrex.inference.detections import Detections
from dinov2_detrex.inference.results import partial_name
from dinov2_detrex.runtime.errors import UserError, one_line
from dinov2_detrex.runtime.extras import needed

SUFFIXES = {".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ogv", ".ts", ".webm", ".wmv"}
DEFAULT_FPS = Fraction(25)
ENCODERS = ("libx264", "libopenh264", "mpeg4")  # the first that this build of FFmpeg has; browsers play the first two
TIME_BASE = Fraction(1, 60_000)  # s: a frame lasts a whole number of these at every usual rate; MPEG-4 takes no finer
_CAMERAS = {"Linux": ("v4l2", "/dev/video{}"), "Darwin": ("avfoundation", "{}"), "Windows": ("dshow", "video={}")}


@dataclass(frozen=True)
class Frame:
    """A picture of a video.

    Attributes:
        number: from 0.
        time_s: from the beginning of the video.
        pixels: uint8 (H, W, 3), RGB, upright.
    """

    number: int
    time_s: float
    pixels: np.ndarray


class Video:
    """The frames of a video file or camera, in order, read as they are needed.

    Args:
        source: a file; for a camera what FFmpeg calls it.
        form: FFmpeg's input format; None where the file tells.

    Attributes:
        fps: frames a second, as far as is known.
        num_frames: None where the file does not say.

    Raises:
        UserError: it cannot be opened, or holds no pictures.
        MissingPackageError: PyAV is not installed.
    """

    def __init__(self, source: str, form: str | None = None):
        self.source, av = source, needed("av", "reading a video or camera", "video")
        try:
            self._container: Any = av.open(source, format=form)
        except (av.FFmpegError, OSError, ValueError) as error:
            raise UserError(f"{source} cannot be opened as a video: {one_line(error)}") from error
        if not self._container.streams.video:
            self._container.close()
            raise UserError(f"{source} holds no video")
        self._stream = self._container.streams.video[0]
        self._stream.thread_type = "AUTO"
        self.fps = Fraction(self._stream.average_rate or self._stream.guessed_rate or DEFAULT_FPS)
        self.num_frames: int | None = self._stream.frames or None

    @classmethod
    def camera(cls, device: str) -> "Video":
        """A camera, by its number (Linux, macOS) or its name (Windows).

        Raises:
            UserError: there is no such camera, or it is in use.
        """
        if platform.system() not in _CAMERAS:
            raise UserError(f"cameras are not known on {platform.system()}; give a video file")
        form, pattern = _CAMERAS[platform.system()]
        return cls(pattern.format(device) if device.isdecimal() or form != "v4l2" else device, form)

    def __iter__(self) -> Iterator[Frame]:
        """The frames; a damaged end is a UserError that names the file and the last good frame."""
        start_s, number = None, 0
        decoder = self._container.decode(self._stream)
        while (frame := self._next(decoder, number)) is not None:
            time_s = frame.time if frame.time is not None else number / float(self.fps)
            start_s = time_s if start_s is None else start_s
            yield Frame(number, time_s - start_s, _upright(frame))
            number += 1

    def _next(self, decoder: Iterator[Any], number: int) -> Any:
        av = needed("av", "reading a video", "video")
        try:
            return next(decoder, None)
        except av.FFmpegError as error:
            raise UserError(f"{self.source} cannot be read after {number} frames: {one_line(error)}") from error

    def close(self) -> None:
        self._container.close()


def _upright(frame: Any) -> np.ndarray:
    """The pixels, turned as the file asks for (telephones record sideways)."""
    quarter_turns = round((getattr(frame, "rotation", 0) or 0) / 90) % 4  # counter-clockwise, as numpy's
    return np.ascontiguousarray(np.rot90(frame.to_ndarray(format="rgb24"), quarter_turns))


class VideoWriter:
    """Writes pictures as a video, which has its final name only when it is whole.

    Args:
        path: of the file, e.g. out.mp4; its folder is made if need be.
        fps: for players; each picture comes with its own time.
        image_hw: (height, width) of the pictures; an odd side is one pixel longer in the video, as its coding wants.

    Attributes:
        partial: where the video is until then.
    """

    def __init__(self, path: Path, fps: Fraction, image_hw: tuple[int, int]):
        av = needed("av", "writing a video", "video")
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path, self.partial = path, partial_name(path)
        self._container: Any = av.open(str(self.partial), "w")
        encoder = next(name for name in ENCODERS if name in av.codecs_available)
        self._stream = self._container.add_stream(encoder, rate=fps.limit_denominator(1001))
        self._stream.height, self._stream.width = (side + side % 2 for side in image_hw)
        self._stream.pix_fmt = "yuv420p"
        self._stream.codec_context.time_base = TIME_BASE
        self._frame, self._last = av.VideoFrame, -1

    def write(self, picture: Image.Image, time_s: float) -> None:
        """Add a picture of the size that was said, shown from `time_s` on; times must rise."""
        canvas = Image.new("RGB", (self._stream.width, self._stream.height))
        canvas.paste(picture)
        frame = self._frame.from_ndarray(np.asarray(canvas), format="rgb24")
        self._last = max(self._last + 1, round(time_s / TIME_BASE))
        frame.pts, frame.time_base = self._last, TIME_BASE
        self._container.mux(self._stream.encode(frame))

    def close(self) -> None:
        """End the video so that it can be played, and leave it under the partial name."""
        self._container.mux(self._stream.encode(None))
        self._container.close()

    def finish(self) -> None:
        """End the video and give it its final name."""
        self.close()
        self.partial.replace(self.path)


class Tracker:
    """Follows objects from frame to frame by where they are: ByteTrack (Zhang et al. 2022), of the package `trackers`.

    Args:
        fps: of the video.
        threshold: score from which a new object is followed.

    Raises:
        MissingPackageError: `trackers` is not installed.
    """

    def __init__(self, fps: float, threshold: float = 0.5):
        trackers = needed("trackers", "following objects", "track")
        self._supervision = needed("supervision", "following objects", "track")
        self._tracker = trackers.ByteTrackTracker(
            frame_rate=fps,
            track_activation_threshold=threshold,
            high_conf_det_threshold=min(threshold, 0.6),
        )

    def __call__(self, detections: Detections) -> Detections:
        """The same of the next frame with the numbers of their objects, -1 where one is not followed (yet)."""
        numbers = np.full(len(detections), -1, dtype=np.int64)
        followed = self._tracker.update(
            self._supervision.Detections(
                xyxy=detections.boxes_xyxy,
                confidence=detections.scores,
                class_id=detections.class_indices,
                data={"row": np.arange(len(detections))},
            )
        )
        if len(followed):
            numbers[followed.data["row"]] = followed.tracker_id
        instances = detections.instances[:]
        instances.track_ids = torch.from_numpy(numbers)
        return Detections(instances, detections.classes, detections.source)
