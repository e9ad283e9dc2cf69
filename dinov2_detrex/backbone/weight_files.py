"""Which tensors does a weights file hold? Reads PyTorch and safetensors files, told apart by content, without code."""

import os
import re
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

UNSAFE_ENV = "DINOV2_DETREX_UNSAFE_CHECKPOINTS"  # "1" lets files run code while they are read
WRAPPERS = ("model", "state_dict", "teacher", "module")  # where programs put the state dict of a checkpoint
FOLDER_FILES = ("model.safetensors", "pytorch_model.bin")


class WeightsError(RuntimeError):
    """Weights that were asked for did not land: the message names the source and the cause, on one line."""


def read_tensors(path: str | os.PathLike) -> dict[str, torch.Tensor]:
    """Name -> tensor of a `.pth`/`.bin`/`.safetensors` file, or of a Hugging Face model folder, on the CPU.

    Raises:
        WeightsError: missing, truncated, no weights file at all, or a pickle that needs more than tensors.
    """
    file = _find_file(Path(path))
    content = _read_safetensors(file) if _is_safetensors(file) else _read_torch(file)
    tensors = _unwrap(content)
    if not tensors:
        raise WeightsError(f"{file} holds no state dict: found {_describe(content)}")
    return tensors


def _find_file(path: Path) -> Path:
    if path.is_dir():
        for name in FOLDER_FILES:
            if (path / name).is_file():
                return path / name
        raise WeightsError(f"the folder {path} holds neither {' nor '.join(FOLDER_FILES)}")
    if not path.is_file():
        raise WeightsError(f"there is no weights file {path}")
    return path


def _is_safetensors(file: Path) -> bool:
    """A safetensors file begins with eight bytes of header length and the header's opening brace."""
    with open(file, "rb") as stream:
        return stream.read(9)[8:] == b"{"


def _read_safetensors(file: Path) -> dict[str, torch.Tensor]:
    try:
        return load_file(file)
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsError(f"{file} is a truncated or damaged safetensors file: {one_line(error)}") from error


def _read_torch(file: Path):
    unsafe = os.environ.get(UNSAFE_ENV) == "1"
    try:
        return torch.load(file, map_location="cpu", weights_only=not unsafe)
    except Exception as error:  # a damaged archive fails in any of a dozen ways
        refused = re.search(r"Unsupported (?:global|class): GLOBAL (\S+)", str(error))
        if refused:
            raise WeightsError(
                f"{file} holds more than tensors ({refused.group(1)}), and reading that may run code; "
                f"set {UNSAFE_ENV}=1 if you trust the file"
            ) from error
        cause = str(error).split("WeightsUnpickler error:")[-1].strip().split("\n")[0] or type(error).__name__
        raise WeightsError(f"{file} is truncated, or no PyTorch or safetensors file: {cause}") from error


def _unwrap(content) -> dict[str, torch.Tensor]:
    """The state dict in a checkpoint: the tensors at the top, or those under one of the usual names."""
    if not isinstance(content, dict):
        return {}
    for name in WRAPPERS:
        if isinstance(content.get(name), dict):
            return _unwrap(content[name])
    return {str(name): value for name, value in content.items() if isinstance(value, torch.Tensor)}


def _describe(content) -> str:
    if isinstance(content, dict):
        return f"a dict with the keys {', '.join(map(str, list(content)[:8])) or '(none)'}"
    return f"an object of type {type(content).__name__}"


def one_line(error: BaseException, limit: int = 300) -> str:
    """Type and message of an error on one line of at most about `limit` characters."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return text if len(text) <= limit else text[:limit] + " ..."
