"""Where does a training step spend its time, and an evaluation forward? By part of the detector, on random images."""

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, cast

import torch
from detectron2.config import instantiate
from omegaconf import DictConfig
from torch import nn

from dinov2_detrex.analysis.benchmark.timing import as_table, check_repeats, now, peak_column
from dinov2_detrex.analysis.cost import PARTS, REST, part_of
from dinov2_detrex.config.loading import load, train_options
from dinov2_detrex.config.pretrained import without_pretrained
from dinov2_detrex.data.random_records import random_inputs
from dinov2_detrex.runtime.errors import building
from dinov2_detrex.training.optimizer import build_optimizer, gradient_clipping
from dinov2_detrex.training.precision import Precision

STEPS = ("backward", "clipping", "optimizer")


def report(
    device: torch.device,
    repeats: int,
    config_file: str,
    image_hw: tuple[int, int],
    batch: int,
    boxes_per_image: int,
    overrides: Sequence[str],
) -> str:
    """The tables of a training step and of an evaluation forward of a recipe, without autocast.

    Args:
        device: where it runs.
        repeats: the fastest step counts, as a whole.
        config_file: any training config; its weights stay random.
        image_hw: pixels.
        batch: images; 0 for the recipe's `total_batch_size`.
        boxes_per_image: objects, all of class 0.
        overrides: of the config, in Hydra's grammar.
    """
    cfg = without_pretrained(load(config_file, list(overrides)))
    batch = batch or cfg.dataloader.train.total_batch_size
    with building("model"):
        model = instantiate(cfg.model).to(device)
    inputs = random_inputs(image_hw, batch, len(cfg.model.get("pixel_mean", (0, 0, 0))), boxes_per_image)
    trained = part_rows(training_step(cfg, model, inputs, device), repeats, device)
    evaluated = part_rows(evaluation(model, inputs, device), repeats, device)
    size = f"{batch} images of {image_hw[0]} x {image_hw[1]} pixels with {boxes_per_image} boxes each"
    title = f"{config_file}: {size}\n\ntraining step"
    return f"{title}\n\n{as_table(trained)}\n\nevaluation forward\n\n{as_table(evaluated)}"


def training_step(
    cfg: DictConfig,
    model: nn.Module,
    inputs: list[dict],
    device: torch.device,
    precision: Precision | None = None,
    called: Callable[..., Any] | None = None,
) -> Callable[[], Counter]:
    """A function that takes one step and says how many seconds each part took; with the config's optimizer.

    Args:
        cfg: of the optimizer and of clipping.
        model: whose parts are timed.
        inputs: training records.
        device: of the model.
        precision: of the forward pass; None for the parameters' own dtype.
        called: what runs the model, if it is not the model itself: then it is one part, `REST`.
    """
    optimizer = build_optimizer(cfg.optimizer, model)
    clip_gradients = gradient_clipping(train_options(cfg).clip_grad)
    forward, precision = called or model, precision or Precision(device)

    def step() -> Counter:
        model.train()
        clock = PartClock(model if forward is model else nn.Module(), device)
        optimizer.zero_grad()
        with clock, precision.autocast():
            loss = cast(torch.Tensor, sum(forward(inputs).values()))
        clock.measure("backward", loss.backward)
        if clip_gradients is not None:
            clock.measure("clipping", partial(clip_gradients, model.parameters()))
        clock.measure("optimizer", optimizer.step)
        return clock.seconds

    return step


def evaluation(
    model: nn.Module,
    inputs: list[dict],
    device: torch.device,
    precision: Precision | None = None,
    called: Callable[..., Any] | None = None,
) -> Callable[[], Counter]:
    """A function that detects once and says how many seconds each part took; post-processing is in `REST`.

    Arguments as of `training_step`.
    """
    forward, precision = called or model, precision or Precision(device)

    @torch.no_grad()
    def detect() -> Counter:
        model.eval()
        with PartClock(model if forward is model else nn.Module(), device) as clock, precision.autocast():
            forward(inputs)
        return clock.seconds

    return detect


class PartClock:
    """While entered, adds up in `seconds` how long each part of the model works; the innermost part counts.

    Parts are those of `analysis.PARTS`. On CUDA every change of part waits for the device, so the whole is slower than
    without the clock.
    """

    def __init__(self, model: nn.Module, device: torch.device):
        self.model, self.device = model, device
        self.seconds: Any = Counter()  # of floats; in the stubs a Counter holds integers
        self._running, self._handles, self._since = [REST], [], 0.0

    def __enter__(self) -> "PartClock":
        for name, module in self.model.named_modules():
            part = part_of(name, self.model)
            before = module.register_forward_pre_hook(lambda module, args, part=part: self._begin(part))
            after = module.register_forward_hook(lambda module, args, output: self._end(), always_call=True)
            self._handles += [before, after]
        self._since = now(self.device)
        return self

    def __exit__(self, *error) -> None:
        self._book()
        for handle in self._handles:
            handle.remove()

    def measure(self, name: str, run: Callable[[], object]) -> None:
        """Run something outside of the model's forward pass, as a part of its own."""
        start = now(self.device)
        run()
        self.seconds[name] += now(self.device) - start

    def _begin(self, part: str) -> None:
        if part != self._running[-1]:
            self._book()
        self._running.append(part)

    def _end(self) -> None:
        if self._running[-1] != self._running[-2]:
            self._book()
        self._running.pop()

    def _book(self) -> None:
        """Put the time since the last change on the part that has been at work."""
        moment = now(self.device)
        self.seconds[self._running[-1]] += moment - self._since
        self._since = moment


def part_rows(run: Callable[[], Counter], repeats: int, device: torch.device) -> list[dict]:
    """A row for every part of the fastest run, in the order of work, and their sum; one run before is not timed."""
    check_repeats(repeats)
    run()
    seconds = min((run() for _ in range(repeats)), key=Counter.total)
    total = seconds.total()
    order = [part for part in (*PARTS, REST, *STEPS) if part in seconds]
    rows = [{"part": part, "ms": 1000 * seconds[part], "share, %": 100 * seconds[part] / total} for part in order]
    return [*rows, {"part": "total", "ms": 1000 * total, "share, %": 100.0, **peak_column(run, device)}]
