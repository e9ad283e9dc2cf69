"""How do results reach the disk, so that an interrupt loses nothing, and nothing half-written has a final name?

Every answer is a line of JSON, written and flushed as it comes to NAME.partial.jsonl. When all are there, the file
becomes NAME.jsonl. What an interrupted run has left is kept: the next one begins NAME.partial-2.jsonl.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from dinov2_detrex.inference.detections import Detections
from dinov2_detrex.runtime.files import atomic_write


class JsonLines:
    """A file of JSON lines that grows.

    Args:
        path: its final name, which ends with .jsonl; a file of that name is replaced at the end.

    Attributes:
        partial: where the lines are until then.
    """

    def __init__(self, path: Path):
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path, self.partial = path, partial_name(path)
        self._file: TextIO = open(self.partial, "x", encoding="utf-8")
        self.count = 0

    def write(self, line: dict[str, Any]) -> None:
        """Add a line; it is in the file when this returns."""
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()
        self.count += 1

    def close(self) -> None:
        """Leave the lines under the partial name."""
        self._file.close()

    def finish(self) -> None:
        """Give the file its final name."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        os.replace(self.partial, self.path)


def partial_name(path: Path) -> Path:
    """The free name, beside a final one, of a file that is being written: a.partial.jsonl, a.partial-2.jsonl, ..."""
    number, found = 1, path.with_suffix(f".partial{path.suffix}")
    while found.exists():
        number += 1
        found = path.with_suffix(f".partial-{number}{path.suffix}")
    return found


def line_of(detections: Detections, **more: Any) -> dict[str, Any]:
    """An answer as a line of JSON: `more`, the size of the picture in pixels, and "detections", COCO results."""
    height, width = detections.image_hw
    return more | {"width": width, "height": height, "detections": detections.to_coco()}


def lines_of(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of a file that is whole."""
    with open(path, encoding="utf-8") as file:
        yield from map(json.loads, file)


def write_flat(lines: Path, path: Path) -> None:
    """All detections of a file of JSON lines as one JSON list, each with its "file_name"; written atomically."""
    with atomic_write(path) as file:
        separator = "[\n"
        for line in lines_of(lines):
            for detection in line["detections"]:
                file.write((separator + json.dumps({"file_name": line["file_name"]} | detection)).encode())
                separator = ",\n"
        file.write(b"[]\n" if separator == "[\n" else b"\n]\n")
