"""Where do computed features lie on disk, and which give way? A file for each, checked when read, bounded in sum.

Any number of processes may use a folder at once: a file appears whole, and one that another process has removed is one
that is not there. What the present run has used stays; of the rest the oldest goes first. A run whose features do not
all fit keeps those that came first, because in epochs each image comes once: to make room for it by one that is still
to come would gain nothing.
"""

import contextlib
import hashlib
import logging
import os
import secrets
from pathlib import Path

import safetensors.torch
import torch

from dinov2_detrex.runtime.errors import UserError
from dinov2_detrex.runtime.files import UNFINISHED, atomic_write

logger = logging.getLogger(__name__)

SUFFIX = ".features"
ROOM = 0.9  # of the bound is what remains once anything is removed, so that the folder is seldom looked through

_DIGEST_BYTES = 16


class FeatureStore:
    """Dictionaries of tensors under keys, in one folder.

    Args:
        folder: made if need be.
        max_bytes: of all files in it together.
        num_processes: that write to it at about the same rate, this one included.

    Raises:
        UserError: the folder cannot be made or written to.
    """

    def __init__(self, folder: str | os.PathLike, max_bytes: int, num_processes: int = 1):
        self.folder, self.max_bytes, self.num_processes = Path(folder), max_bytes, num_processes
        self._opened_ns = self._time_ns()
        self._known_bytes, self._written_bytes, self._open = sum(size for _, size, _ in self._files()), 0, True

    def read(self, key: str) -> dict[str, torch.Tensor] | None:
        """What is kept under the key, in its order; None where there is nothing, or nothing whole."""
        path = self._path(key)
        try:
            content = memoryview(path.read_bytes())
        except OSError:
            return None
        if _digest(content[_DIGEST_BYTES:]) != content[:_DIGEST_BYTES]:
            return None
        with contextlib.suppress(OSError):
            os.utime(path)
        numbered = safetensors.torch.load(bytes(content[_DIGEST_BYTES:]))
        return {name.partition(" ")[2]: numbered[name] for name in sorted(numbered)}

    def write(self, key: str, tensors: dict[str, torch.Tensor]) -> None:
        """Keep the tensors under the key, unless there is no room; a folder that is full is one warning."""
        if not self._open:
            return
        content = safetensors.torch.save(
            {f"{i:03d} {name}": tensor for i, (name, tensor) in enumerate(tensors.items())}
        )
        size = _DIGEST_BYTES + len(content)
        if not self._make_room(size):
            self._close(f"is full ({self.max_bytes / 1e9:.3g} GB, train.feature_cache.max_gb)")
            return
        try:
            with atomic_write(self._path(key)) as file:
                file.write(_digest(content))
                file.write(content)
        except OSError as error:
            self._close(f"takes no more: {error.strerror}")
        self._written_bytes += size

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}{SUFFIX}"

    def _time_ns(self) -> int:
        """The present, by the clock of the file system that the folder is on."""
        probe = self.folder / f"{UNFINISHED}{secrets.token_hex(4)}.tmp"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            probe.touch()
            now = probe.stat().st_mtime_ns
            probe.unlink()
        except OSError as error:
            raise UserError(f"train.feature_cache.folder={self.folder} cannot be used: {error.strerror}") from error
        return now

    def _files(self) -> list[tuple[int, int, Path]]:
        """(time of the last use, bytes, path) of every file, also of killed writers' ones, the oldest first."""
        found = []
        for path in self.folder.glob("??/*"):
            if path.suffix in (SUFFIX, ".tmp"):
                with contextlib.suppress(OSError):  # another process was faster
                    status = path.stat()
                    found.append((status.st_mtime_ns, status.st_size, path))
        return sorted(found)

    def _make_room(self, size: int) -> bool:
        """Whether `size` more bytes are within the bound, after what was not used since the start has given way."""
        if self._known_bytes + self._written_bytes * self.num_processes + size <= self.max_bytes:
            return True
        files = self._files()
        total, wanted = sum(size for _, size, _ in files), int(self.max_bytes * ROOM)
        for used_ns, file_size, path in files:
            if total + size <= wanted or used_ns >= self._opened_ns:
                break
            path.unlink(missing_ok=True)
            total -= file_size
        self._known_bytes, self._written_bytes = total, 0
        return total + size <= self.max_bytes

    def _close(self, why: str) -> None:
        self._open = False
        logger.warning("feature cache %s %s: what is not in it yet is computed each time", self.folder, why)


def _digest(content: bytes | memoryview) -> bytes:
    return hashlib.blake2b(content, digest_size=_DIGEST_BYTES).digest()
