"""In which precision the forward pass runs: fp32, or autocast in bf16 or in fp16 with a gradient scaler."""

import contextlib

import torch

from dinov2_detrex.config.train_options import AmpDtype, AmpOptions
from dinov2_detrex.runtime.devices import emulates_bfloat16

DTYPES = {AmpDtype.bfloat16: torch.bfloat16, AmpDtype.float16: torch.float16}

EMULATION = (
    "this processor has no bfloat16 instructions: torch emulates them, and inference with ViT-B at 518 px took nine "
    "times as long as in float32 (AVX2, torch 2.14)"
)
EMULATED = f"{EMULATION}; train.amp.enabled=false is faster"
LEFT_OUT = f"{EMULATION}; train.amp is left out, train.amp.dtype=bfloat16 would insist on it"


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
    """The dtype of autocast, None for none.

    That of `options.dtype`; where it says nothing bf16 if the device computes in it, fp16 on GPUs that do not, and none
    on processors that would emulate it.
    """
    if not options.enabled:
        return None
    if options.dtype is not None:
        return DTYPES[options.dtype]
    if emulates_bfloat16(device):
        return None
    return torch.bfloat16 if has_bfloat16(device) else torch.float16


def told_of_emulation(options: AmpOptions, device: torch.device) -> str:
    """The line that a run with bf16 on a processor that emulates it is worth; empty elsewhere."""
    if not options.enabled or options.dtype is AmpDtype.float16 or not emulates_bfloat16(device):
        return ""
    return LEFT_OUT if options.dtype is None else EMULATED


def has_bfloat16(device: torch.device) -> bool:
    """True on CPUs, and on GPUs with bf16 in hardware (compute capability 8 and later), or that are not there."""
    if device.type != "cuda" or torch.version.hip or not torch.cuda.is_available():
        return True
    return torch.cuda.get_device_capability(device)[0] >= 8
