"""Which tensors does a weights file or a model folder hold?"""

import os
from pathlib import Path

import torch

from dinov2_detrex.runtime import files
from dinov2_detrex.runtime.downloads import local_file
from dinov2_detrex.runtime.errors import UserError

WRAPPERS = ("model", "state_dict", "teacher", "module")  # where programs put the state dict of a checkpoint
FOLDER_FILES = ("model.safetensors", "pytorch_model.bin")


class WeightsError(UserError, RuntimeError):
    """Weights that were asked for did not land: the message names the source and the cause, on one line."""


def read_tensors(path: str | os.PathLike) -> dict[str, torch.Tensor]:
    """Name -> tensor of a PyTorch or safetensors file, a Hugging Face model folder, or known://NAME, on the CPU.

    They are for copying into a model: some stay on the disk until they are used.

    Raises:
        WeightsError: missing, truncated, no weights file at all, or a pickle that needs more than tensors.
        UserError: a known file that cannot be had, or is another.
    """
    file = _find_file(Path(local_file(os.fspath(path))))
    try:
        content = files.read(file, memory_map=True)
    except files.UnreadableFile as error:
        raise WeightsError(str(error)) from error
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
