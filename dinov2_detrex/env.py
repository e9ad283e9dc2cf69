"""What runs here: versions, which engine serves detectron2 and detrex, devices. `python -m dinov2_detrex.env`."""

import importlib
import importlib.metadata
import platform
import sys

from dinov2_detrex.engine import ENGINE_PACKAGES, is_fallback

VERSIONED = ("torch", "torchvision", "timm", "omegaconf", "hydra-core", "fvcore", "iopath", "pycocotools", "numpy")


def describe_engine(package: str) -> str:
    """One line: "fallback (…)" or "installed VERSION (…)", with the folder it is imported from."""
    try:
        module = importlib.import_module(package)
    except Exception as error:  # an installed engine may be broken in any way; say so instead of dying of it
        return f"installed, but its import fails: {type(error).__name__}: {error}"
    served_by = "fallback" if is_fallback(package) else "installed"
    return f"{served_by} {getattr(module, '__version__', '')} ({module.__path__[0]})"


def describe_devices() -> str:
    """The accelerators that torch sees, or the CPU with its number of threads."""
    import torch  # here, so that the command's --help answers at once

    if not torch.cuda.is_available():
        return f"cpu, {torch.get_num_threads()} threads"
    return ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def describe() -> list[tuple[str, str]]:
    """(name, value) rows of everything that decides how this package runs."""
    rows = [("dinov2_detrex", importlib.import_module("dinov2_detrex").__version__)]
    rows += [(package, describe_engine(package)) for package in ENGINE_PACKAGES]
    rows += [("python", platform.python_version()), ("platform", platform.platform())]
    rows += [(name, _version(name)) for name in VERSIONED]
    return rows + [("devices", describe_devices())]


if __name__ == "__main__":
    from dinov2_detrex.cli import run_command

    sys.exit(run_command("env"))
