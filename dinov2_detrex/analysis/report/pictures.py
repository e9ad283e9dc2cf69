"""What do the worst images and the probable label errors look like? Pictures of the truth and of the detections."""

import base64
import contextlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from dinov2_detrex.analysis.report.confusion import cross_matches, kept_detections
from dinov2_detrex.analysis.report.judged import Boxes, Judged
from dinov2_detrex.analysis.report.suspects import Suspect
from dinov2_detrex.data.image_reading import UnreadableImage, open_upright
from dinov2_detrex.runtime.files import atomic_write
from dinov2_detrex.visualization.drawing import draw_boxes

Window = tuple[int, int, int, int]  # x0, y0, x1, y1 in pixels

SIDE_PX = 380  # the longest side of a picture
_CONTEXT = 0.75  # how much around a suspect is shown, of its size
_SMALLEST_CROP_PX = 48


class Picture(NamedTuple):
    """A picture of the report: its PNG file's name, the file's bytes, and what it shows."""

    name: str
    png: bytes
    alt: str

    @property
    def data_uri(self) -> str:
        """The picture itself as an address, so that the page needs no other file."""
        return f"data:image/png;base64,{base64.b64encode(self.png).decode()}"


class Pair(NamedTuple):
    """The truth and the detections of the same pixels, with a caption for both."""

    truth: Picture
    detected: Picture
    caption: str


class Worst(NamedTuple):
    """An image with errors: its index, wrong detections, and objects not found, at the thresholds."""

    image: int
    wrong: int
    missed: int


def worst_images(judged: Judged, thresholds: np.ndarray, count: int = 8) -> list[Worst]:
    """The images with the most errors, wrong detections and objects not found; a confused class counts once."""
    kept = kept_detections(judged, thresholds)
    crossed = cross_matches(judged, kept)
    wrong = np.bincount(judged.detections.image[kept & ~judged.found], minlength=len(judged.images))
    missed = ~judged.objects.crowd
    missed[judged.match[kept & judged.found]] = False
    missed[crossed[crossed >= 0]] = False
    missing = np.bincount(judged.objects.image[missed], minlength=len(judged.images))
    order = np.argsort(-(wrong + missing), kind="stable")[:count]
    return [Worst(int(i), int(wrong[i]), int(missing[i])) for i in order if wrong[i] + missing[i]]


def draw_worst(judged: Judged, thresholds: np.ndarray, worst: Sequence[Worst], image_root: Path) -> list[Pair]:
    """Pictures of each; those whose file cannot be read are left out."""
    kept = kept_detections(judged, thresholds)
    pairs = []
    for number, (image, wrong, missed) in enumerate(worst):
        with contextlib.suppress(OSError, UnreadableImage):
            rows = np.flatnonzero(kept & (judged.detections.image == image))
            caption = f"{judged.images[image]['file_name']}: {wrong} wrong, {missed} not found"
            pairs.append(_pair(judged, image, rows, image_root, f"worst_{number:02d}", caption))
    return pairs


def draw_suspects(judged: Judged, suspects: Sequence[Suspect], image_root: Path) -> list[Pair]:
    """Pictures of the surroundings of each suspect; those whose file cannot be read are left out."""
    pairs = []
    for number, suspect in enumerate(suspects):
        with contextlib.suppress(OSError, UnreadableImage):
            row = suspect.detection
            image = int(judged.detections.image[row])
            caption = f"{judged.images[image]['file_name']}: {sentence(judged, suspect)}"
            box = judged.detections.xywh[row]
            pairs.append(_pair(judged, image, np.array([row]), image_root, f"label_{number:02d}", caption, box))
    return pairs


def _pair(
    judged: Judged,
    image: int,
    rows: np.ndarray,
    image_root: Path,
    name: str,
    caption: str,
    around: np.ndarray | None = None,
) -> Pair:
    """An image with its objects, and with the detections `rows`; all of it, or what is around a box XYWH."""
    file_name = str(judged.images[image]["file_name"])
    photo = open_upright(image_root / file_name).convert("RGB")
    window = (0, 0, *photo.size) if around is None else _window(around, photo.size)
    objects = np.flatnonzero(judged.objects.image == image)
    truth = _drawn(photo, judged.objects, objects, _truth_labels(judged, objects), window)
    detected = _drawn(photo, judged.detections, rows, _labels(judged, rows), window)
    what = file_name if around is None else f"a part of {file_name}"
    return Pair(
        Picture(f"{name}_truth.png", _png(truth), f"{what} with its labels, {len(objects)} in the image"),
        Picture(f"{name}_detected.png", _png(detected), f"{what} with {len(rows)} detections"),
        caption,
    )


def sentence(judged: Judged, suspect: Suspect) -> str:
    """What is suspected, in words."""
    row = suspect.detection
    seen = f"{judged.class_names[judged.detections.kind[row]]} ({judged.detections.score[row]:.2f})"
    if suspect.what == "missing":
        return f"detected is {seen}, labelled is nothing"
    labelled = judged.class_names[judged.objects.kind[suspect.object]]
    if suspect.what == "class":
        return f"detected is {seen}, labelled is {labelled}"
    return f"detected is {seen} in another box than the labelled one (IoU {judged.own_iou[row]:.2f})"


def write_pictures(pairs: Sequence[Pair], folder: Path) -> None:
    """Their PNG files, in place of those of an earlier report."""
    pictures = [picture for pair in pairs for picture in (pair.truth, pair.detected)]
    names = {picture.name for picture in pictures}
    for pattern in ("worst_??_*.png", "label_??_*.png"):
        for old in folder.glob(pattern):
            if old.name not in names:
                old.unlink()
    for picture in pictures:
        with atomic_write(folder / picture.name) as file:
            file.write(picture.png)


def _labels(judged: Judged, rows: np.ndarray) -> list[str]:
    found = judged.detections
    return [f"{judged.class_names[found.kind[row]]} {found.score[row]:.2f}" for row in rows]


def _truth_labels(judged: Judged, rows: np.ndarray) -> list[str]:
    objects = judged.objects
    return [judged.class_names[objects.kind[row]] + (" (crowd)" if objects.crowd[row] else "") for row in rows]


def _drawn(photo: Image.Image, boxes: Boxes, rows: np.ndarray, labels: list[str], window: Window) -> Image.Image:
    """A window of the photo, scaled, with those of the boxes that reach into it."""
    part = photo.crop(window)
    scale = SIDE_PX / max(part.size)
    size = (max(1, round(part.width * scale)), max(1, round(part.height * scale)))
    xyxy = boxes.xywh[rows].copy()
    xyxy[:, 2:] += xyxy[:, :2]
    xyxy = (xyxy - np.array([*window[:2], *window[:2]])) * scale
    inside = np.flatnonzero((xyxy[:, 2:] > 0).all(axis=1) & (xyxy[:, :2] < size).all(axis=1))
    return draw_boxes(part.resize(size), xyxy[inside], boxes.kind[rows[inside]].tolist(), [labels[i] for i in inside])


def _window(xywh: np.ndarray, size_wh: tuple[int, int]) -> Window:
    """A box with its surroundings, within the image."""
    x, y, w, h = (float(value) for value in xywh)
    margin = max(_CONTEXT * max(w, h), (_SMALLEST_CROP_PX - max(w, h)) / 2)
    x0, y0 = max(0, int(x - margin)), max(0, int(y - margin))
    x0, y0 = min(x0, size_wh[0] - 1), min(y0, size_wh[1] - 1)
    x1, y1 = min(size_wh[0], int(x + w + margin) + 1), min(size_wh[1], int(y + h + margin) + 1)
    return x0, y0, max(x1, x0 + 1), max(y1, y0 + 1)


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def described(judged: Judged, suspects: Sequence[Suspect]) -> list[dict[str, Any]]:
    """The suspects for JSON: image, what is suspected, the classes, the score and the detected box XYWH in pixels."""
    rows = []
    for suspect in suspects:
        row = suspect.detection
        labelled = None if suspect.object < 0 else judged.class_names[judged.objects.kind[suspect.object]]
        image = judged.images[judged.detections.image[row]]
        rows.append(
            {
                "image_id": image["id"],
                "file_name": image["file_name"],
                "suspected": suspect.what,
                "detected": judged.class_names[judged.detections.kind[row]],
                "labelled": labelled,
                "score": float(judged.detections.score[row]),
                "bbox": judged.detections.xywh[row].tolist(),
            }
        )
    return rows
