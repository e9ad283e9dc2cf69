"""How the golden files' inputs and weights are made: both are functions of a name (tests/golden)."""

import json
import zlib
from pathlib import Path

import numpy as np
import torch

GOLDEN = Path(__file__).parent / "golden"


def golden_fill(name: str, shape) -> np.ndarray:
    """The value of the state-dict entry `name`: normal(0, 0.05), scales around 1."""
    rng = np.random.RandomState(zlib.crc32(name.encode()) % 2**32)
    value = rng.standard_normal(shape).astype("float32") * 0.05
    return value + 1.0 if len(shape) == 1 and name.endswith(("weight", "gamma")) else value


def golden_image(name: str, *shape: int) -> np.ndarray:
    """Random pixels 0..255, float32, of the given shape."""
    rng = np.random.RandomState(zlib.crc32(name.encode()) % 2**32)
    return rng.uniform(0, 255, shape).astype("float32")


def fill_from_names(model: torch.nn.Module) -> None:
    """Overwrite every floating-point state-dict entry with `golden_fill` of its name, in state-dict order."""
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                value.copy_(torch.from_numpy(golden_fill(name, tuple(value.shape))))


def load_npz(name: str) -> dict[str, torch.Tensor]:
    with np.load(GOLDEN / name) as file:
        return {key: torch.from_numpy(file[key]) for key in file.files}


def load_json(name: str):
    return json.loads((GOLDEN / name).read_text())
