"""How does a known file of weights get onto this machine, and is it the published one?

It lies in the cache under its name once it is whole and checked, or not at all. What publishes no SHA-256 is trusted
once: that of the first download is kept beside the file, in `sha256sum`'s form, and no other is taken afterwards.
"""

import hashlib
import logging
import os
import urllib.request
from collections.abc import Callable, Iterator
from http.client import HTTPException
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlparse

from dinov2_detrex.runtime.errors import UserError, one_line
from dinov2_detrex.runtime.files import UNFINISHED, atomic_write, write_text
from dinov2_detrex.runtime.known_weights import SCHEME, KnownFile, find_known, known_files
from dinov2_detrex.runtime.progress_bar import Progress

logger = logging.getLogger(__name__)

OFFLINE = "HF_HUB_OFFLINE"  # that of huggingface_hub, which timm's downloads obey
_TIMEOUT_S = 60.0
_CHUNK = 2**20


class WrongFile(UserError):
    """A file is not the known one: its size or SHA-256 is another."""


def local_file(path: str) -> str:
    """`known://NAME` as the path of its file in the cache, downloaded if need be; any other path as it is.

    Raises:
        UserError: see `fetch`.
    """
    return str(fetch(find_known(path))) if path.startswith(SCHEME) else path


def cached_path(known: KnownFile) -> Path:
    """Where the file lies once it is there: the place that detectron2's `PathManager` has for its address, below
    $FVCORE_CACHE or ~/.torch/iopath_cache."""
    from iopath.common.file_io import get_cache_dir

    return Path(get_cache_dir()) / os.path.dirname(urlparse(known.address).path.lstrip("/")) / known.file_name


def fetch(known: KnownFile, show: Callable[[str], object] = logger.info) -> Path:
    """The file in the cache, checked each time, downloaded the first time.

    Several processes may ask at once; one of them downloads.

    Args:
        known: which file.
        show: gets a line for people where a download begins.

    Raises:
        WrongFile: what lies in the cache, or what came, is not the known file.
        UserError: it is neither in the cache nor to be had.
    """
    from iopath.common.file_io import file_lock

    path = cached_path(known)
    if not path.is_file():
        _refuse_download(known, path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with file_lock(str(path)):
        if not path.is_file():
            show(f"downloading {known.address} to {path}")
            _download(known, path)
        else:
            _accept(known, path, sha256_of(path), path.stat().st_size, f"delete {path} to download it again")
    return path


def copy_to(known: KnownFile, folder: Path) -> Path:
    """A checked copy of the cached file in a folder, under its published name.

    Raises:
        WrongFile: a file of that name is there, and is another.
        UserError: see `fetch`.
    """
    source, target = fetch(known), folder / known.file_name
    if target.is_file():
        if sha256_of(target) != sha256_of(source):
            raise WrongFile(f"{target} is there already, and is not {SCHEME}{known.name}; nothing was overwritten")
        return target
    with open(source, "rb") as file, atomic_write(target) as copy:
        for chunk in _chunks(file):
            copy.write(chunk)
    return target


def identified(path: Path) -> str:
    """What a file is, in words: the known one of its content, or of its name where no SHA-256 is published.

    Raises:
        WrongFile: it is none of them, or not the one that it is named like.
    """
    sha256, size = sha256_of(path), path.stat().st_size
    files = known_files().values()
    for known in files:
        if known.sha256 and not mismatch(known, sha256, size):
            where = f" at {known.sha256_from}" if known.sha256_from else ""
            return f"{SCHEME}{known.name}, by the {len(known.sha256)} digits of its SHA-256{where}"
    for known in files:
        if known.file_name == path.name:
            return _by_name(known, path, sha256, size)
    raise WrongFile(f"{path} is none of the {len(files)} known files ({size} bytes, SHA-256 {sha256})")


def _by_name(known: KnownFile, path: Path, sha256: str, size: int) -> str:
    first = remembered(known)
    if problem := mismatch(known, sha256, size, first):
        raise WrongFile(f"{path} is not {SCHEME}{known.name}: {problem}")
    compared = "it equals the first download" if first else f"nothing to compare its own with, {sha256}"
    return f"{SCHEME}{known.name}, by its name: no SHA-256 is published, and {compared}"


def remembered(known: KnownFile) -> str:
    """The SHA-256 of the first download; "" where there was none yet."""
    record = _record(cached_path(known))
    return record.read_text(encoding="utf-8").split(" ")[0] if record.is_file() else ""


def sha256_of(path: Path) -> str:
    """Of a file's content, in hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for chunk in _chunks(file):
            digest.update(chunk)
    return digest.hexdigest()


def mismatch(known: KnownFile, sha256: str, size: int, first: str = "") -> str:
    """What of a file is not as known, with both values; "" where all that is known agrees.

    Args:
        known: which file it should be.
        sha256, size: of the file; the size is in bytes.
        first: SHA-256 of the first download, for where none is published.
    """
    if known.bytes is not None and size != known.bytes:
        return f"it has {size} bytes, the published one {known.bytes}"
    if not sha256.startswith(known.sha256):
        return f"its SHA-256 is {sha256}, the published one {known.sha256}"
    if first and sha256 != first:
        return f"its SHA-256 is {sha256}, that of the first download was {first} ({_record(cached_path(known))})"
    return ""


def _refuse_download(known: KnownFile, path: Path) -> None:
    """Raise where a download is not possible or not wanted."""
    if not known.address:
        raise UserError(
            f"{SCHEME}{known.name} is sent on request alone ({known.licence}): ask for it at {known.page}, "
            f"`dinov2-detrex weights check FILE` what you get, and give its path"
        )
    if os.environ.get(OFFLINE, "").upper() in ("1", "ON", "YES", "TRUE"):
        raise UserError(
            f"{SCHEME}{known.name} is not in the cache, and {OFFLINE}={os.environ[OFFLINE]} forbids downloads; put "
            f"{known.address} at {path}, or give the path of a copy"
        )


def _download(known: KnownFile, path: Path) -> None:
    for leftover in path.parent.glob(f"{UNFINISHED}{path.name}-*.tmp"):  # of a process that was killed
        leftover.unlink(missing_ok=True)
    digest, size = hashlib.sha256(), 0
    with atomic_write(path) as file:
        for chunk in _received(known):
            file.write(chunk)
            digest.update(chunk)
            size += len(chunk)
        _accept(known, path, digest.hexdigest(), size, "nothing was kept")


def _received(known: KnownFile) -> Iterator[bytes]:
    """What the address sends, whole."""
    done, announced = 0, None
    try:
        with urllib.request.urlopen(known.address, timeout=_TIMEOUT_S) as answer:
            announced = int(answer.headers.get("Content-Length") or 0) or None
            with Progress(announced and -(-announced // _CHUNK), "MiB") as progress:
                for chunk in _chunks(answer):
                    done += len(chunk)
                    yield chunk
                    progress.step()
    except (OSError, ValueError, HTTPException) as error:  # no connection, no such file, a broken transfer
        raise UserError(f"{SCHEME}{known.name} cannot be downloaded from {known.address}: {one_line(error)}") from error
    if announced and done != announced:
        raise UserError(f"{known.address} broke off: {done} bytes came of the {announced} announced; try again")


def _accept(known: KnownFile, path: Path, sha256: str, size: int, advice: str) -> None:
    """Refuse another file than the known one; remember the first where no whole SHA-256 is published."""
    first = remembered(known)
    problem = mismatch(known, sha256, size, first)
    if problem:
        raise WrongFile(f"{path} is not {SCHEME}{known.name}: {problem}; {advice}")
    if not first and len(known.sha256) < hashlib.sha256().digest_size * 2:
        write_text(_record(path), f"{sha256}  {path.name}\n")
        logger.info("%s: its SHA-256 is not published; that of this first copy, %s, is kept", path, sha256)


def _record(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def _chunks(file: BinaryIO) -> Iterator[bytes]:
    while chunk := file.read(_CHUNK):
        yield chunk
