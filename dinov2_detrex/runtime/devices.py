"""Which device does the work?"""

import platform

import torch

from dinov2_detrex.runtime.errors import UsageError


def choose_device(name: str | None, local_rank: int = 0, option: str = "train.device") -> torch.device:
    """What is asked for, else this process's GPU, else the CPU.

    Args:
        name: as torch names devices, e.g. "cpu", "cuda" or "cuda:1"; None or "" takes what there is.
        local_rank: the number of this process on its machine, and so of its GPU.
        option: what the user asked with, for the message.

    Raises:
        UsageError: `name` is no device, or CUDA is asked for where torch sees none.
    """
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
    except RuntimeError as error:
        raise UsageError(f"{option}={name} is no device of torch; e.g. cpu, cuda, cuda:1") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UsageError(f"{option}={name}, but torch {torch.__version__} sees no CUDA device; set {option}=cpu")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UsageError(f"{option}={name}, but torch {torch.__version__} sees no Apple GPU; set {option}=cpu")
    return torch.device("cuda", local_rank) if device == torch.device("cuda") else device


def emulates_bfloat16(device: torch.device) -> bool:
    """True for x86 processors without bfloat16 instructions (AVX-512 BF16, AMX): there torch converts to float32 and
    back at every operation, which is slower than float32 itself. Of other devices nothing is claimed."""
    if device.type != "cpu" or platform.machine().lower() not in ("x86_64", "amd64"):
        return False
    queries = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")  # torch has no public ones
    known = [query for query in (getattr(torch.cpu, name, None) for name in queries) if query is not None]
    return bool(known) and not any(query() for query in known)
