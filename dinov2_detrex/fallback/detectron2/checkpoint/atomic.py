"""How is a file replaced so that a kill at any moment leaves either the old one or the new one whole?

The new content goes to a temporary file in the same folder, reaches the disk, and takes the name in one step.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

_PREFIX, _SUFFIX = ".unfinished-", ".tmp"  # never ends with .pth, so no one takes it for a checkpoint


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike) -> Iterator[BinaryIO]:
    """Open a file for writing; it appears under `path` only when the block ends without an exception."""
    path = Path(path)
    temporary = path.with_name(f"{_PREFIX}{path.name}{_SUFFIX}")
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def remove_unfinished(folder: str | os.PathLike) -> None:
    """Delete what killed writers left behind. Only one process may write checkpoints to a folder."""
    for leftover in Path(folder).glob(f"{_PREFIX}*{_SUFFIX}"):
        leftover.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Make the new name itself durable, where folders can be synced (not on Windows)."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
