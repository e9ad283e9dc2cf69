"""What runs here, for the top of a log? A table of versions and devices; it never raises."""

import importlib.metadata
import platform
import sys

import torch
from tabulate import tabulate

__all__ = ["collect_env_info"]

_PACKAGES = ("numpy", "torchvision", "Pillow", "fvcore", "iopath", "omegaconf", "timm", "opencv-python")


def collect_env_info() -> str:
    """Two columns of name and value, then torch's build configuration."""
    import detectron2

    rows = [
        ("platform", platform.platform()),
        ("Python", sys.version.replace("\n", "")),
        ("detectron2", f"{detectron2.__version__} @{detectron2.__path__[0]}"),
        ("PyTorch", torch.__version__),
        *((name, _version(name)) for name in _PACKAGES),
        *_device_rows(),
    ]
    return f"{tabulate(rows)}\n{torch.__config__.show()}"


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _device_rows() -> list[tuple[str, str]]:
    try:
        if not torch.cuda.is_available():
            return [("GPU available", f"no, {torch.get_num_threads()} CPU threads")]
        names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        return [("CUDA", str(torch.version.cuda)), *((f"GPU {i}", name) for i, name in enumerate(names))]
    except Exception as error:  # a broken driver fails in its own ways, and a log's header must not end the run
        return [("GPU available", f"unknown: {error}")]
