"""How is a file of tensors read without running code from it, and how is a file written so that it is whole or absent?

`read` tells PyTorch's formats, safetensors and pickles of arrays apart by content. `atomic_write` is for every file
that something else will read: it appears under its name complete and on disk, or not at all.
"""

import contextlib
import json
import os
import pickle
import re
import secrets
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from dinov2_detrex.runtime.errors import UserError, one_line

UNSAFE_PICKLE = "DINOV2_DETREX_UNSAFE_PICKLE"  # "1" in the environment lets files run code while they are read

_LEGACY_MAGIC = bytes.fromhex("6cfc9c46f9206aa85019")  # torch.serialization.MAGIC_NUMBER, at the start before torch 1.6
UNFINISHED = ".unfinished-"  # begins the name of a file that is being written


def cache_folder(name: str) -> Path:
    """A folder of that name in the user's cache, which is $XDG_CACHE_HOME or ~/.cache; it need not exist."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "dinov2_detrex" / name


# ---------------------------------------------------------------------------------------------------------- reading


class UnreadableFile(UserError, RuntimeError):
    """A file of tensors that is missing, empty, truncated, of another kind, or not safe to read; says which."""


class NoStateDict(UnreadableFile, ValueError):
    """The file can be read, but nothing in it is a state dict."""


class NeedsUnpickling(UnreadableFile, pickle.UnpicklingError):
    """The file holds objects beside tensors and plain values; reading those can run any code."""


def read(path: str | os.PathLike, memory_map: bool = False) -> Any:
    """The content of a PyTorch file, a safetensors file or a pickle of arrays; tensors are on the CPU.

    Args:
        path: of the file; its name does not matter.
        memory_map: leave the tensors of a PyTorch file (of torch 1.6 or later) on the disk until they are used. For
            content that is copied and dropped: as long as it lives, the file must not be changed in place.

    Returns:
        what was saved, mostly a dict: name -> tensor for safetensors, of numpy arrays for a pickle.

    Raises:
        NeedsUnpickling: naming the type that would have to be unpickled and the switch that allows it.
        UnreadableFile: naming the file and what is wrong with it.
    """
    unsafe = os.environ.get(UNSAFE_PICKLE) == "1"
    kind = _kind(path)
    try:
        if kind == "safetensors":
            return load_file(path)
        if kind == "pickle":
            return _load_pickle(path, unsafe)
        memory_map = memory_map and kind == "zip"
        return torch.load(path, map_location="cpu", weights_only=not unsafe, mmap=memory_map)
    except MemoryError:
        raise
    except Exception as error:  # damaged files fail in any of a dozen ways
        _refuse(path, kind, error)


def read_checkpoint(path: str | os.PathLike, memory_map: bool = False) -> dict[str, Any]:
    """The content of a checkpoint as a dict with the state dict under "model", wherever the file has it.

    Args:
        path, memory_map: see `read`.

    Raises:
        UnreadableFile: see `read`.
        NoStateDict: there is none under "model" or "state_dict", and the file itself is none; names its keys.
    """
    content = read(path, memory_map)
    if not isinstance(content, dict):
        raise NoStateDict(f"{path} holds a {type(content).__name__}, not a dict with a state dict")
    if "model" in content:
        return content
    if "state_dict" in content:
        return {"model": content["state_dict"], **{k: v for k, v in content.items() if k != "state_dict"}}
    if all(isinstance(value, torch.Tensor | np.ndarray) for value in content.values()):
        return {"model": content}
    keys = ", ".join(map(repr, list(content)[:10]))
    raise NoStateDict(f"{path} has no state dict under 'model' or 'state_dict'; its top-level keys: {keys}")


def _kind(path: str | os.PathLike) -> str:
    """ "zip" and "legacy" for PyTorch's two formats, "safetensors" or "pickle", by the file's beginning."""
    try:
        with open(path, "rb") as file:
            start = file.read(64)
    except FileNotFoundError as error:
        raise UnreadableFile(f"checkpoint {path} does not exist") from error
    except OSError as error:
        raise UnreadableFile(f"checkpoint {path} cannot be read: {error.strerror}") from error
    if start[8:9] == b"{":  # after the length of its header
        return "safetensors"
    if start.startswith(b"PK\x03\x04"):
        return "zip"
    if _LEGACY_MAGIC in start:
        return "legacy"
    if start[:1] == b"\x80" or (start and os.fspath(path).endswith(".pkl")):  # the oldest pickles have no mark
        return "pickle"
    reason = f"it begins with {start[:12]!r}, like no PyTorch or safetensors file" if start else "it is empty"
    raise UnreadableFile(f"{path} is damaged or no checkpoint: {reason}")


def _refuse(path: str | os.PathLike, kind: str, error: Exception) -> NoReturn:
    """Say in one line why a file of that kind could not be read.

    torch and pickle raise UnpicklingError both for damage and for what they refuse; a whole archive is not damaged.
    """
    refused = re.search(r"GLOBAL ([\w.]+)", str(error))
    whole = kind == "zip" and zipfile.is_zipfile(path)
    if isinstance(error, pickle.UnpicklingError) and (whole or refused):
        raise NeedsUnpickling(
            f"{path} holds {refused[1] if refused else 'more than tensors and plain values'}, and reading that can run "
            f"code; if you trust the file, set {UNSAFE_PICKLE}=1"
        ) from error
    truncated = isinstance(error, EOFError | SafetensorError) or (kind == "zip" and not whole)
    reason = f"it is truncated, or something else ({one_line(error)})" if truncated else one_line(error)
    raise UnreadableFile(f"{path} is damaged or no checkpoint: {reason}") from error


def _load_pickle(path: str | os.PathLike, unsafe: bool) -> Any:
    with open(path, "rb") as file:
        return (pickle.Unpickler if unsafe else _ArrayUnpickler)(file, encoding="latin1").load()


class _ArrayUnpickler(pickle.Unpickler):
    """Unpickles plain containers and numpy arrays, nothing else."""

    ALLOWED = {
        ("collections", "OrderedDict"),
        ("numpy", "ndarray"),
        ("numpy", "dtype"),
        ("_codecs", "encode"),  # how old protocols write bytes
        *(
            (f"numpy.{package}.{module}", name)
            for package in ("core", "_core")
            for module, name in (("multiarray", "_reconstruct"), ("multiarray", "scalar"), ("numeric", "_frombuffer"))
        ),
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.ALLOWED:
            raise pickle.UnpicklingError(f"GLOBAL {module}.{name} is not allowed")
        if not hasattr(np, "_core"):  # numpy 1 reading a file of numpy 2
            module = module.replace("numpy._core", "numpy.core")
        return super().find_class(module, name)


# ---------------------------------------------------------------------------------------------------------- writing


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike) -> Iterator[BinaryIO]:
    """A file to write to, in a folder that is made if need be; it appears under `path` when the block ends well.

    The content goes to a temporary file in the same folder, reaches the disk, and takes the name in one step. Several
    processes may write the same path at once; one of them wins.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{UNFINISHED}{path.name}-{secrets.token_hex(4)}.tmp")
    try:
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def write(path: str | os.PathLike, content: Any) -> None:
    """`torch.save`, atomically."""
    with atomic_write(path) as file:
        torch.save(content, file)


def write_text(path: str | os.PathLike, text: str) -> None:
    """The text as UTF-8, atomically."""
    with atomic_write(path) as file:
        file.write(text.encode())


def write_json(path: str | os.PathLike, content: Any, indent: int | None = None) -> None:
    """The content as JSON, atomically."""
    write_text(path, json.dumps(content, indent=indent))


def remove_unfinished(folder: str | os.PathLike) -> None:
    """Delete what killed writers left behind in a folder that no other process writes to at the moment."""
    for leftover in Path(folder).glob(f"{UNFINISHED}*.tmp"):
        leftover.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Make the new name itself durable, where folders can be synced (not on Windows)."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
