"""What of a detector does `torch.compile` make faster, and can it work here? The way from images to levels.

That is the backbone and the neck: convolutions, matrix products and what is fused between them. The rest stays as it
is. Deformable attention has forms of its own, of which a compiler would take the slowest (`detector/weighted_rows.py`),
and matching and denoising change their shapes with every batch.
"""

import logging

import torch
from torch import nn

from dinov2_detrex.runtime.errors import UserError, one_line

logger = logging.getLogger(__name__)

PARTS = ("backbone", "neck")


def is_traced() -> bool:
    """Whether a compiler or a tracer records what runs now, and wants plain operators."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()  # pyright: ignore[reportPrivateImportUsage]  # is public


def compile_parts(model: nn.Module, device: torch.device, option: str) -> None:
    """Have the model's backbone and neck compiled when they first run; names of parameters stay as they are.

    Args:
        model: with a `backbone`, and perhaps a `neck`.
        device: of the model.
        option: what the user asked with, for messages.

    Raises:
        UserError: there is no such part, or nothing can be compiled for the device here; says why.
    """
    parts = [part for name in PARTS if isinstance(part := getattr(model, name, None), nn.Module)]
    if not parts:
        raise UserError(f"{option}: a {type(model).__name__} has no {' or '.join(PARTS)} to compile; leave it out")
    require_compiler(device, option)
    for part in parts:
        part.compile()
    logger.info(
        "%s: compiled when first run, and again at a second image size, which takes a minute or more each time",
        " and ".join(name for name in PARTS if hasattr(model, name)),
    )


def require_compiler(device: torch.device, option: str) -> None:
    """Compile a sum to see whether that works here: a C++ compiler on a CPU, Triton on a GPU, a torch that can.

    Raises:
        UserError: it does not, with the cause in one line.
    """
    try:
        torch.compile(_trial)(torch.ones(8, device=device))
    except Exception as error:  # of torch's many parts, or of the compiler
        cause = one_line(error)[:200]
        needed = "a C++ compiler (g++, or what CXX names)" if device.type == "cpu" else "Triton"
        raise UserError(f"{option} needs {needed} and cannot work here ({cause}); leave it out") from error


def _trial(x: torch.Tensor) -> torch.Tensor:
    return x.sin() + 1
