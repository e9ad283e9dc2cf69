"""How much memory does a training step take on a device, told before it runs, and how many images fit?

The step is taken on a pretended device: every tensor has its size and no data, and what is alive at the same time is
added up. Not in the sum are what libraries take for themselves (CUDA's context, work spaces of cuBLAS
and cuDNN), what an operator allocates inside, and the gaps between blocks: `usable_bytes` leaves room for those.
"""

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from detectron2.config import instantiate
from omegaconf import DictConfig
from torch import nn

from dinov2_detrex.config.loading import train_options
from dinov2_detrex.config.pretrained import without_pretrained
from dinov2_detrex.config.train_options import ModelEmaOptions
from dinov2_detrex.runtime.allocations import HeldBytes
from dinov2_detrex.runtime.errors import UserError, building
from dinov2_detrex.runtime.pretended import PretendedDevice
from dinov2_detrex.training.ema import ModelEMA
from dinov2_detrex.training.optimizer import build_optimizer, gradient_clipping
from dinov2_detrex.training.precision import Precision, choose_dtype

logger = logging.getLogger(__name__)

CUDA_OVERHEAD = 2**30  # context, libraries and work spaces
USABLE = 0.92  # of the rest; the gaps between blocks take some
MOST_IMAGES = 1024  # of one device


@dataclass(frozen=True)
class StepMemory:
    """What a training step holds when it holds most.

    Attributes:
        peak: bytes in all.
        parts: bytes by what they are for: "parameters", "buffers", "optimizer", "average", and "rest", which is
            gradients, activations and what is temporary.
    """

    peak: int
    parts: dict[str, int]


def step_memory(cfg: DictConfig, batch: list[dict], device: torch.device) -> StepMemory:
    """Peak memory of a training step of a config, forward, backward and optimizer, on a device that need not be there.

    Args:
        cfg: a training config, complete.
        batch: training records; what goes through the model at once.
        device: its kind counts.
    """
    options = train_options(cfg)
    with building("model"):
        model = instantiate(without_pretrained(cfg).model).train()
    pretended, memory = PretendedDevice(device.type), HeldBytes(device.type)
    kind = torch.device(device.type)
    precision = Precision(kind, choose_dtype(options.amp, kind))
    clip = gradient_clipping(options.clip_grad)
    with pretended:
        pretended.move(model)
        optimizer = build_optimizer(cfg.optimizer, model)
        average = ModelEMA(model, options.model_ema.decay).tensors() if _averages_there(options.model_ema) else []
        parts = {"parameters": _size(model.parameters()), "buffers": _size(model.buffers()), "average": _size(average)}
        memory.add([*model.parameters(), *model.buffers(), *average])
        with memory:
            for _ in range(2):  # the optimizer makes its state in the first step
                take_step(model, batch, optimizer, precision, clip)
    state = [x for slot in optimizer.state.values() for x in slot.values() if isinstance(x, torch.Tensor)]
    parts["optimizer"] = _size(state)
    return StepMemory(memory.peak, {**parts, "rest": memory.peak - sum(parts.values())})


def _size(tensors: Iterable[torch.Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors)


def _averages_there(options: ModelEmaOptions) -> bool:
    return options.enabled and options.device.value in ("", "cuda")


def take_step(
    model: nn.Module,
    batch: list[dict],
    optimizer: torch.optim.Optimizer,
    precision: Precision,
    clip: Callable[..., object] | None,
) -> None:
    """Forward, backward, clip, step; as the trainer does, without what it looks at and writes."""
    optimizer.zero_grad(set_to_none=True)
    with precision.autocast():
        losses = model(batch)
    torch.as_tensor(sum(losses.values())).backward()
    if clip is not None:
        clip([p for p in model.parameters() if p.grad is not None])
    optimizer.step()


def usable_bytes(device: torch.device) -> int:
    """Memory of a device that tensors can take.

    Raises:
        UserError: nobody knows how much there is.
    """
    if device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory
        return int(USABLE * (total - CUDA_OVERHEAD))
    return int(USABLE * _available_on_host(device))


def _available_on_host(device: torch.device) -> int:
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            sizes = dict(line.split(":", 1) for line in file)
        return int(sizes["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError) as error:
        raise UserError(f"how much memory {device} has is unknown; set dataloader.train.total_batch_size") from error


def largest_batch(peak_of: Callable[[int], int], usable: int) -> int:
    """The largest number of images whose peak is not above `usable`, at most `MOST_IMAGES`; 0 where none fits.

    Args:
        peak_of: images -> bytes, never falling; asked as seldom as a straight line through two answers allows.
    """
    known: dict[int, int] = {}

    def fits(images: int) -> bool:
        if images not in known:
            known[images] = peak_of(images)
            logger.info("%d images take %.1f GiB of %.1f GiB", images, known[images] / 2**30, usable / 2**30)
        return known[images] <= usable

    if not fits(1):
        return 0
    low, high = 1, MOST_IMAGES + 1  # fits, does not
    guess = 2
    while high - low > 1:
        if fits(guess):
            low = guess
        else:
            high = guess
        slope = max((known[guess] - known[1]) / (guess - 1), 1.0)
        guess = min(max(int(1 + (usable - known[1]) / slope), low + 1), high - 1)
    return low
