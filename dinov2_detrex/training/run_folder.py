"""May this run write to its folder? One run at a time does, and what an earlier run left there is not written over."""

import contextlib
import errno
import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from dinov2_detrex.runtime.errors import UserError
from dinov2_detrex.training.checkpoint import LAST, RunCheckpoints

try:
    import fcntl
except ImportError:  # Windows: runs there are not kept apart
    fcntl = None

logger = logging.getLogger(__name__)

LOCK = ".lock"
_NO_LOCKS = {errno.ENOLCK, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTSUP, errno.ENOSYS}  # of a file system
# what a run writes beside its checkpoints, but for log.txt, which is appended to
_WRITTEN = (LAST, "config.yaml", "metrics.json", "coco_instances_results.json", "ema")
_WRITTEN_PATTERNS = ("events.out.tfevents.*",)


def make_folder(folder: Path) -> None:
    """The folder, with its parents.

    Raises:
        UserError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"train.output_dir={folder} cannot be made: {error.strerror}") from error


@contextlib.contextmanager
def only_run_in(folder: Path) -> Iterator[None]:
    """Keeps other runs out of the folder, by a lock that ends with the process however it ends.

    A file system without locks, and a folder that cannot be written to, are passed over in silence.

    Raises:
        UserError: another run is at work there; names the folder, the process and its host.
    """
    descriptor = _locked(folder / LOCK, folder)
    try:
        yield
    finally:
        if descriptor is not None:
            with contextlib.suppress(OSError):  # before the lock goes, so that no other run holds this file
                (folder / LOCK).unlink()
            os.close(descriptor)


def _locked(path: Path, folder: Path) -> int | None:
    """The descriptor of the locked file; None where there are no locks."""
    while fcntl is not None:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            if error.errno in _NO_LOCKS:
                return None
            raise
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            owner = os.read(descriptor, 1000).decode(errors="replace").strip()
            os.close(descriptor)
            if error.errno in (errno.EAGAIN, errno.EACCES):
                raise UserError(
                    f"another run writes to train.output_dir={folder} ({owner or 'a process that has just started'}): "
                    "wait for its end, or choose another train.output_dir"
                ) from None
            return None
        if _is_still_there(path, descriptor):
            os.ftruncate(descriptor, 0)
            os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode())
            return descriptor
        os.close(descriptor)  # of a run that has ended between the two calls, and removed the file
    return None


def _is_still_there(path: Path, descriptor: int) -> bool:
    """Whether the open file is the one that has the name now."""
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    return False


def set_aside(checkpoints: RunCheckpoints) -> Path | None:
    """Move the checkpoints of an earlier run, and what it wrote beside them, to `earlier-1/`, or the next free number.

    Returns:
        that folder; None where there are no checkpoints.
    """
    folder = checkpoints.folder
    saved = [*checkpoints.periodic(), *folder.glob("model_final.pth"), *folder.glob("model_best.pth")]
    if not saved:
        return None
    beside = [folder / name for name in _WRITTEN if (folder / name).exists()]
    beside += [path for pattern in _WRITTEN_PATTERNS for path in folder.glob(pattern)]
    target = _new_folder(folder)
    for path in dict.fromkeys([*saved, *beside]):
        path.rename(target / path.name)
    logger.warning(
        "%s holds another run (%s): it was moved to %s; --resume would have continued it",
        folder,
        ", ".join(path.name for path in saved[:3]) + (", ..." if len(saved) > 3 else ""),
        target,
    )
    return target


def _new_folder(folder: Path) -> Path:
    number = 1
    while True:
        with contextlib.suppress(FileExistsError):
            target = folder / f"earlier-{number}"
            target.mkdir()
            return target
        number += 1
