"""What does each part of a detector cost? Parameters, arithmetic of a forward pass, and activations kept for training.

Measured by running the model: each module says which part is at work while it runs, every operator is counted by
torch's formula for it, and hooks see every tensor that autograd keeps.
"""

import contextlib
import weakref
from collections import Counter
from collections.abc import Iterable

import torch
from detectron2.config import instantiate
from detectron2.structures import Boxes, Instances
from omegaconf import DictConfig, ListConfig, OmegaConf
from tabulate import tabulate
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from dinov2_detrex.config.loading import train_options
from dinov2_detrex.detector import MultiScaleDeformableAttention
from dinov2_detrex.training.precision import Precision, choose_device, choose_dtype

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


def part_of(name: str, model: nn.Module) -> str:
    """The part that a module or parameter of that full name belongs to; `REST` for what no part names."""
    if not hasattr(getattr(model, "backbone", None), "net") and is_inside(name, "backbone"):
        return "backbone net"  # a backbone without a pyramid
    fitting = [(len(start), part) for part, starts in PARTS.items() for start in starts if is_inside(name, start)]
    return max(fitting)[1] if fitting else REST


def is_inside(name: str, start: str) -> bool:
    """Whether the dotted name is `start` or lies below it."""
    return name == start or name.startswith(start + ".")


class CurrentPart:
    """While entered, `name` is the part whose module runs, the innermost one."""

    def __init__(self, model: nn.Module):
        self.model = model
        self._running, self._handles = [REST], []

    @property
    def name(self) -> str:
        return self._running[-1]

    def __enter__(self) -> "CurrentPart":
        for name, module in self.model.named_modules():
            part = part_of(name, self.model)
            before = module.register_forward_pre_hook(lambda module, args, part=part: self._running.append(part))
            after = module.register_forward_hook(lambda module, args, output: self._end(), always_call=True)
            self._handles += [before, after]
        return self

    def __exit__(self, *error) -> None:
        for handle in self._handles:
            handle.remove()

    def _end(self) -> None:
        self._running.pop()


def count_parameters(model: nn.Module) -> tuple[Counter, Counter]:
    """Numbers of trained and of frozen parameters by part, shared ones once."""
    trained, frozen = Counter(), Counter()
    for name, parameter in model.named_parameters():
        (trained if parameter.requires_grad else frozen)[part_of(name, model)] += parameter.numel()
    return trained, frozen


class FlopsOfOperators(TorchDispatchMode):
    """While entered, adds up in `flops` what torch's formulas say of the operators that run, by the current part.

    (torch's own `FlopCounterMode` follows modules too, but not without gradients.)
    """

    def __init__(self, current: CurrentPart):
        super().__init__()
        self.current, self.flops = current, Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        formula = flop_registry.get(func._overloadpacket)
        if formula is None:
            with self:  # an operator that is made of others
                output = func.decompose(*args, **kwargs)
            return func(*args, **kwargs) if output is NotImplemented else output
        output = func(*args, **kwargs)
        self.flops[self.current.name] += formula(*args, **kwargs, out_val=output)
        return output


def sampling_flops(attention: MultiScaleDeformableAttention, query: Tensor) -> int:
    """Of the weighted sums of deformable attention, whatever kernel takes them: four cells around every point."""
    samples = query.numel() // attention.embed_dim * attention.num_levels * attention.num_points
    return 2 * 4 * samples * attention.embed_dim  # each head reads its own share of the embedding


@torch.no_grad()
def count_flops(model: nn.Module, inputs: list[dict]) -> Counter:
    """Floating-point operations of `model(inputs)` in evaluation, by part (see `COUNTED`)."""
    with _mode(model, training=False), CurrentPart(model) as current, FlopsOfOperators(current) as counter:

        def add_samples(attention: MultiScaleDeformableAttention, args: tuple) -> None:
            counter.flops[current.name] += sampling_flops(attention, args[0])

        attentions = [module for module in model.modules() if isinstance(module, MultiScaleDeformableAttention)]
        handles = [attention.register_forward_pre_hook(add_samples) for attention in attentions]
        model(inputs)
        for handle in handles:
            handle.remove()
    return counter.flops


class _Kept:
    """A tensor that autograd keeps; alive as long as the graph holds it."""

    __slots__ = ("tensor", "__weakref__")

    def __init__(self, tensor: Tensor):
        self.tensor = tensor.detach()  # shares the memory, and makes no circle with the graph


def kept_activations(model: nn.Module, inputs: list[dict], precision: Precision | None = None) -> Counter:
    """Bytes that a forward pass in training keeps for the backward pass, by part (see `COUNTED`).

    Args:
        model: returns a dict of losses.
        inputs: training records.
        precision: of the forward pass; None for the parameters' own dtype.
    """
    kept: list[tuple[str, weakref.ref]] = []

    def pack(tensor: Tensor) -> _Kept:
        holder = _Kept(tensor)
        kept.append((current.name, weakref.ref(holder)))
        return holder

    autocast = contextlib.nullcontext() if precision is None else precision.autocast()
    with _mode(model, training=True), CurrentPart(model) as current, autocast:
        with saved_tensors_hooks(pack, lambda holder: holder.tensor):
            losses = model(inputs)
            loss = sum(losses.values())  # holds the graph while it is counted
    sizes = bytes_by_part(kept, without=[*model.parameters(), *model.buffers()])
    del loss
    return sizes


def bytes_by_part(kept: list[tuple[str, weakref.ref]], without: Iterable[Tensor]) -> Counter:
    """Sizes of the storages that are still held, each once; none that holds a tensor of `without`."""
    seen, sizes = {tensor.untyped_storage().data_ptr() for tensor in without}, Counter()
    for part, reference in kept:
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


def random_inputs(image_hw: tuple[int, int], batch: int, channels: int, boxes_per_image: int = 7) -> list[dict]:
    """Training records with random pixels and boxes of class 0, the same from call to call; 7 is COCO's mean.

    Raises:
        ValueError: there is no pixel or no image.
    """
    if min(*image_hw, batch) < 1:
        raise ValueError(f"{batch} images of {image_hw[0]} x {image_hw[1]} pixels: nothing to measure")
    generator, records = torch.Generator().manual_seed(0), []
    height, width = image_hw
    for _ in range(batch):
        corners = torch.rand(boxes_per_image, 2, 2, generator=generator).sort(dim=1).values  # two points (x, y)
        boxes = Boxes((corners * torch.tensor([width, height])).flatten(1))
        labels = torch.zeros(boxes_per_image, dtype=torch.int64)
        image = torch.randint(0, 256, (channels, height, width), dtype=torch.uint8, generator=generator)
        instances = Instances(image_hw, gt_boxes=boxes, gt_classes=labels)
        records.append({"image": image, "instances": instances, "height": height, "width": width})
    return records


def weights_off(node) -> None:
    """Set `pretrained=False` and an empty `checkpoint_path` wherever a config has them: costs do not depend on them."""
    if isinstance(node, DictConfig):
        for key, value in {"pretrained": False, "checkpoint_path": ""}.items():
            if key in node:
                node[key] = value
    if isinstance(node, (DictConfig, ListConfig)):
        for key in node.keys() if isinstance(node, DictConfig) else range(len(node)):
            if not OmegaConf.is_interpolation(node, key):
                weights_off(node[key])


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
    model = instantiate(cfg.model).to(device)
    trained, frozen = count_parameters(model)
    flops = count_flops(model, inputs)
    kept = kept_activations(model, inputs, precision)
    images = "1 image" if batch == 1 else f"{batch} images"
    header = f"{images} of {image_hw[0]} x {image_hw[1]} pixels (height x width), {precision} on {device}"
    return "\n\n".join((header, as_table(trained, frozen, flops, kept), COUNTED))


def as_table(trained: Counter, frozen: Counter, flops: Counter, kept: Counter) -> str:
    """A row for every part that costs something, and their sum; Markdown."""
    parts = [part for part in (*PARTS, REST) if trained[part] or frozen[part] or flops[part] or kept[part]]
    rows = [(part, trained[part], frozen[part], flops[part], kept[part]) for part in parts]
    rows.append(("total", *(sum(column) for column in list(zip(*rows))[1:])))
    cells = [(part, f"{t:,}", f"{f:,}", f"{n / 1e9:,.1f}", f"{k / 2**20:,.1f}") for part, t, f, n, k in rows]
    header = ("part", "parameters trained", "frozen", "GFLOP", "kept, MiB")
    return tabulate(cells, header, tablefmt="github", disable_numparse=True, colalign=("left", *["right"] * 4))
