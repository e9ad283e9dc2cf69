"""What does each part of a detector cost? Parameters, arithmetic of a forward pass, and activations kept for training.

Measured by running the model: each module says which part is at work while it runs, every operator is counted by a
formula, and hooks see every tensor that autograd keeps.
"""

import contextlib
import weakref
from collections import Counter
from collections.abc import Iterable

import torch
from detectron2.config import instantiate
from tabulate import tabulate
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from dinov2_detrex.analysis.flops import CurrentModule, flops_by_module
from dinov2_detrex.config.loading import train_options
from dinov2_detrex.data.random_records import random_inputs
from dinov2_detrex.runtime.devices import choose_device
from dinov2_detrex.runtime.errors import building
from dinov2_detrex.training.precision import Precision, choose_dtype
from dinov2_detrex.training.step_memory import step_memory

REST = "rest"
# part -> beginnings of module names; the longest that fits decides
PARTS = {
    "backbone net": ("backbone.net",),
    "pyramid": ("backbone",),
    "neck": ("neck",),
    "encoder": ("transformer.encoder",),
    "query selection": ("transformer",),
    "decoder": ("transformer.decoder",),
    "heads": ("class_embed", "bbox_embed", "transformer.decoder.class_embed", "transformer.decoder.bbox_embed"),
    "losses": ("criterion",),
}

COUNTED = """\
GFLOP: one forward pass in evaluation; a multiply-add is 2. Counted are convolutions, matrix products, attention, and
the weighted sums of deformable attention; not norms, activations, softmax, sampling weights, resizing, post-processing.
kept: memory that a forward pass in training holds until the backward pass, every storage once, at the first part that
keeps it; without parameters and buffers, gradients, the optimizer's state, and what is freed on the way."""


TOLD = """\
peak: told for {device} from the sizes of tensors, without a run there; forward, backward and optimizer, of two steps.
Not in it: CUDA's context and work spaces of its libraries (about 1 GiB), what operators allocate inside, and gaps."""


def part_of(name: str, model: nn.Module) -> str:
    """The part that a module or parameter of that full name belongs to; `REST` for what no part names."""
    if not hasattr(getattr(model, "backbone", None), "net") and is_inside(name, "backbone"):
        return "backbone net"  # a backbone without a pyramid
    fitting = [(len(start), part) for part, starts in PARTS.items() for start in starts if is_inside(name, start)]
    return max(fitting)[1] if fitting else REST


def is_inside(name: str, start: str) -> bool:
    """Whether the dotted name is `start` or lies below it."""
    return name == start or name.startswith(start + ".")


def count_parameters(model: nn.Module) -> tuple[Counter, Counter]:
    """Numbers of trained and of frozen parameters by part, shared ones once."""
    trained, frozen = Counter(), Counter()
    for name, parameter in model.named_parameters():
        (trained if parameter.requires_grad else frozen)[part_of(name, model)] += parameter.numel()
    return trained, frozen


def count_flops(model: nn.Module, inputs: list[dict]) -> Counter:
    """Floating-point operations of `model(inputs)` in evaluation, by part (see `COUNTED`)."""
    flops = Counter()
    with _mode(model, training=False):
        for name, number in flops_by_module(model, inputs).items():
            flops[part_of(name, model)] += number
    return flops


class _Saved:
    """A tensor that autograd saves; alive as long as the graph holds it."""

    __slots__ = ("tensor", "__weakref__")

    def __init__(self, tensor: Tensor):
        self.tensor = tensor.detach()  # shares the memory, and makes no circle with the graph


def saved_activations(model: nn.Module, inputs: list[dict], precision: Precision | None = None) -> Counter:
    """Bytes that a forward pass in training keeps for the backward pass, by part (see `COUNTED`).

    Args:
        model: returns a dict of losses.
        inputs: training records.
        precision: of the forward pass; None for the parameters' own dtype.
    """
    saved: list[tuple[str, weakref.ref]] = []

    def pack(tensor: Tensor) -> _Saved:
        holder = _Saved(tensor)
        saved.append((part_of(current.name, model), weakref.ref(holder)))
        return holder

    autocast = contextlib.nullcontext() if precision is None else precision.autocast()
    with _mode(model, training=True), CurrentModule(model) as current, autocast:
        with saved_tensors_hooks(pack, lambda holder: holder.tensor):
            losses = model(inputs)
            loss = sum(losses.values())  # holds the graph while it is counted
    sizes = bytes_by_part(saved, without=[*model.parameters(), *model.buffers()])
    del loss
    return sizes


def bytes_by_part(saved: list[tuple[str, weakref.ref]], without: Iterable[Tensor]) -> Counter:
    """Sizes of the storages that are still held, each once; none that holds a tensor of `without`."""
    seen, sizes = {tensor.untyped_storage().data_ptr() for tensor in without}, Counter()
    for part, reference in saved:
        holder = reference()
        storage = None if holder is None else holder.tensor.untyped_storage()
        if storage is not None and storage.data_ptr() not in seen:
            seen.add(storage.data_ptr())
            sizes[part] += storage.nbytes()
    return sizes


@contextlib.contextmanager
def _mode(model: nn.Module, training: bool):
    """Training or evaluation inside, as before afterwards."""
    before = model.training
    model.train(training)
    try:
        yield
    finally:
        model.train(before)


def analyze(cfg, image_hw: tuple[int, int], batch: int = 1) -> str:
    """Build the model of a training config and report the costs of its parts.

    Args:
        cfg: a config with `model` and `train`; `train.device` and `train.amp` count.
        image_hw: size of the images in pixels, before the detector pads them.
        batch: number of images.

    Returns:
        the conditions, the table, and what was counted.
    """
    device = choose_device(cfg.train.device)
    precision = Precision(device, choose_dtype(train_options(cfg).amp, device))
    inputs = random_inputs(image_hw, batch, len(cfg.model.get("pixel_mean", (0, 0, 0))))
    with building("model"):
        model = instantiate(cfg.model).to(device)
    trained, frozen = count_parameters(model)
    flops = count_flops(model, inputs)
    saved = saved_activations(model, inputs, precision)
    images = "1 image" if batch == 1 else f"{batch} images"
    header = f"{images} of {image_hw[0]} x {image_hw[1]} pixels (height x width), {precision} on {device}"
    return "\n\n".join((header, as_table(trained, frozen, flops, saved), COUNTED))


def as_table(trained: Counter, frozen: Counter, flops: Counter, saved: Counter) -> str:
    """A row for every part that costs something, and their sum; Markdown."""
    parts = [part for part in (*PARTS, REST) if trained[part] or frozen[part] or flops[part] or saved[part]]
    rows: list[tuple] = [(part, trained[part], frozen[part], flops[part], saved[part]) for part in parts]
    rows.append(("total", *(sum(column) for column in list(zip(*rows))[1:])))
    cells = [(part, f"{t:,}", f"{f:,}", f"{n / 1e9:,.1f}", f"{k / 2**20:,.1f}") for part, t, f, n, k in rows]
    header = ("part", "parameters trained", "frozen", "GFLOP", "kept, MiB")
    return tabulate(cells, header, tablefmt="github", disable_numparse=True, colalign=("left", *["right"] * 4))


def memory_report(cfg, image_hw: tuple[int, int], batch: int, device_type: str) -> str:
    """What a training step of the config will take on a device that need not be there, as a table in Markdown.

    Args:
        cfg: a training config; `train.amp`, `train.model_ema` and its optimizer count.
        image_hw: size of the images in pixels, before the detector pads them.
        batch: images that go through the model at once.
        device_type: "cuda" or "cpu".
    """
    inputs = random_inputs(image_hw, batch, len(cfg.model.get("pixel_mean", (0, 0, 0))))
    memory = step_memory(cfg, inputs, torch.device(device_type))
    rows = sorted(memory.parts.items(), key=lambda part: -part[1])
    cells = [(name.lower(), f"{size / 2**20:,.1f}") for name, size in [*rows, ("peak", memory.peak)]]
    table = tabulate(cells, ("at the peak of a step", "MiB"), tablefmt="github", colalign=("left", "right"))
    images = "1 image" if batch == 1 else f"{batch} images"
    header = f"{images} of {image_hw[0]} x {image_hw[1]} pixels (height x width) on {device_type}"
    return "\n\n".join((header, table, TOLD.format(device=device_type)))
