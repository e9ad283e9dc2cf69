"""In which precision the forward pass runs: fp32, or autocast in bf16 or in fp16 with a gradient scaler."""

import contextlib

import torch

from dinov2_detrex.config.train_options import AmpDtype, AmpOptions
from dinov2_detrex.training.errors import UsageError

DTYPES = {AmpDtype.bfloat16: torch.bfloat16, AmpDtype.float16: torch.float16}


class Precision:
    """Autocast and gradient scaling of one device.

    Args:
        device: of the model.
        dtype: of autocast; None runs in the parameters' own dtype.
    """

    def __init__(self, device: torch.device, dtype: torch.dtype | None = None):
        self.device, self.dtype = torch.device(device), dtype
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=dtype is torch.float16)

    def autocast(self):
        """The context of the forward pass."""
        if self.dtype is None:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=self.dtype)

    def __str__(self) -> str:
        if self.dtype is None:
            return "float32"
        scaled = " with a gradient scaler" if self.scaler.is_enabled() else ""
        return f"autocast {str(self.dtype).removeprefix('torch.')}{scaled}"


def choose_dtype(options: AmpOptions, device: torch.device) -> torch.dtype | None:
    """The dtype of autocast: None when off, bf16 unless `options.dtype` says otherwise or the GPU lacks it."""
    if not options.enabled:
        return None
    if options.dtype is not None:
        return DTYPES[options.dtype]
    return torch.bfloat16 if _has_bfloat16(device) else torch.float16


def _has_bfloat16(device: torch.device) -> bool:
    """True on CPUs, and on GPUs with bf16 in hardware (compute capability 8 and later)."""
    return device.type != "cuda" or bool(torch.version.hip) or torch.cuda.get_device_capability(device)[0] >= 8


def choose_device(name: str | None, local_rank: int = 0) -> torch.device:
    """The device for `train.device`: what is asked for, else this process's GPU, else the CPU.

    Raises:
        UsageError: CUDA is asked for where torch sees none.
    """
    device = torch.device(str(name or ("cuda" if torch.cuda.is_available() else "cpu")))
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UsageError(
            f"train.device={name}, but torch {torch.__version__} sees no CUDA device; "
            "set train.device=cpu, or train.device=null to take what there is"
        )
    return torch.device("cuda", local_rank) if device == torch.device("cuda") else device
