"""What is inside a checkpoint file, read without running code that the file brings along?

`torch.load(weights_only=True)` reads .pth files, an unpickler limited to arrays reads .pkl files. Whoever trusts a
file that needs more sets DINOV2_DETREX_UNSAFE_PICKLE=1 or passes unsafe_pickle=True: such a file can run any code.
"""

import os
import pickle
import re
from typing import Any

import numpy as np
import torch

UNSAFE_PICKLE_VARIABLE = "DINOV2_DETREX_UNSAFE_PICKLE"


def read_checkpoint(path: str, unsafe_pickle: bool = False) -> dict[str, Any]:
    """The content of a checkpoint, tensors on the CPU, with the state dict under "model".

    Raises:
        pickle.UnpicklingError: the file needs types that are not read by default; names file, type and way out.
        RuntimeError: damaged, or no checkpoint at all.
        ValueError: nothing in it is a state dict; names the top-level keys.
    """
    unsafe_pickle = unsafe_pickle or os.environ.get(UNSAFE_PICKLE_VARIABLE, "") not in ("", "0")
    load = _load_pkl if path.endswith(".pkl") else _load_torch
    try:
        content = load(path, unsafe_pickle)
    except pickle.UnpicklingError as error:
        if unsafe_pickle or not _unsafe_type(error):
            raise RuntimeError(f"{path} is damaged or no checkpoint: {error}") from error
        raise pickle.UnpicklingError(_refusal(path, error)) from error
    except (RuntimeError, EOFError, IndexError, KeyError, UnicodeDecodeError) as error:  # as truncated files fail
        raise RuntimeError(f"{path} is damaged or no checkpoint: {error or type(error).__name__}") from error
    return _with_model(content, path)


def _load_torch(path: str, unsafe_pickle: bool) -> Any:
    return torch.load(path, map_location="cpu", weights_only=not unsafe_pickle)


def _load_pkl(path: str, unsafe_pickle: bool) -> Any:
    with open(path, "rb") as file:
        content = (pickle.Unpickler if unsafe_pickle else _ArrayUnpickler)(file, encoding="latin1").load()
    if not (isinstance(content, dict) and "model" in content and "__author__" in content):
        raise ValueError(f"{path} is not in detectron2's model zoo format ('model' and '__author__'), convert it first")
    return content


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


def _unsafe_type(error: pickle.UnpicklingError) -> str:
    """The type that the safe reader stumbled over, "" if it was something else."""
    match = re.search(r"GLOBAL ([\w.]+)", str(error))
    return match.group(1) if match else ""


def _refusal(path: str, error: pickle.UnpicklingError) -> str:
    return (
        f"{path} holds {_unsafe_type(error)}, which is not read by default because unpickling can run code. If you "
        f"trust the file, set {UNSAFE_PICKLE_VARIABLE}=1 or call load(path, unsafe_pickle=True)."
    )


def _with_model(content: Any, path: str) -> dict[str, Any]:
    """The content with its state dict under "model": as it is, from "state_dict", or the content itself."""
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}, not a dict with a state dict")
    if "model" in content:
        return content
    if "state_dict" in content:
        return {"model": content["state_dict"], **{k: v for k, v in content.items() if k != "state_dict"}}
    if all(isinstance(value, (torch.Tensor, np.ndarray)) for value in content.values()):
        return {"model": content}
    keys = ", ".join(map(repr, list(content)[:10]))
    raise ValueError(f"{path} has no state dict under 'model' or 'state_dict'; its top-level keys: {keys}")
