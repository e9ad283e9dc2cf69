"""What does `dataloader.train.total_batch_size=auto` stand for? The largest batch of the data that the device takes."""

import contextlib
import copy
import itertools
from collections.abc import Iterator
from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf

from dinov2_detrex.config.loading import load, train_options
from dinov2_detrex.data.loader import build_train_loader
from dinov2_detrex.data.random_records import random_inputs
from dinov2_detrex.runtime.devices import choose_device
from dinov2_detrex.runtime.errors import UsageError, UserError
from dinov2_detrex.runtime.processes import under_torchrun
from dinov2_detrex.training.failures import building
from dinov2_detrex.training.step_memory import largest_batch, step_memory, usable_bytes

KEY = "dataloader.train.total_batch_size"
SAMPLES = 64  # records that are looked at for their size


def settle_batch(config_file: str, overrides: list[str], num_processes: int, resume: bool) -> list[str]:
    """The overrides with a number instead of `auto`; as they are where they do not ask for it.

    A resumed run keeps the number of its config.yaml.

    Args:
        config_file, overrides: as of `load`.
        num_processes: of the run; each has a device of its own and its share of the batch.
        resume: the run goes on from its newest checkpoint, if there is one.

    Raises:
        UserError: not even one image fits, or the memory of the device is unknown.
    """
    asked = [text for text in overrides if text.lstrip("+").partition("=")[0] == KEY]
    if not asked or asked[-1].partition("=")[2].strip("'\"") != "auto":
        return overrides
    others = [text for text in overrides if text not in asked]
    cfg = load(config_file, others)
    saved = Path(cfg.train.output_dir) / "config.yaml"
    if resume and saved.is_file():
        total = OmegaConf.select(OmegaConf.load(saved), KEY)
    else:
        total = choose_batch(cfg, num_processes)
    return [*others, f"{KEY}={total}"]


def choose_batch(cfg: DictConfig, num_processes: int) -> int:
    """The largest `total_batch_size` whose micro-batches fit the device, by `step_memory`; says what it took."""
    device = choose_device(cfg.train.device)
    if device.type == "cpu" and under_torchrun():
        raise UsageError(f"{KEY}=auto: processes of torchrun on one CPU may see different memory; give a number")
    image_hw, boxes = largest_image(cfg.dataloader.train)
    channels = len(cfg.model.get("pixel_mean", (0, 0, 0)))
    usable = usable_bytes(device)

    def peak_of(images: int) -> int:
        memory = step_memory(cfg, random_inputs(image_hw, images, channels, boxes), device)
        buckets = memory.parts.get("Parameter", 0) if num_processes > 1 else 0  # DDP's, of the gradients
        return memory.peak + buckets

    with _one_thread():
        images = largest_batch(peak_of, usable)
    what = f"images of {image_hw[0]} x {image_hw[1]} pixels with {boxes} boxes"
    if not images:
        raise UserError(f"{KEY}=auto: not one of the {what} fits into {usable / 2**30:.1f} GiB of {device}")
    steps = train_options(cfg).accumulate.steps
    total = images * num_processes * steps
    shares = f" for each of {num_processes} process(es) and {steps} micro-batch(es)" if total > images else ""
    print(f"{KEY}={total}: {images} {what}{shares} take at most {usable / 2**30:.2f} GiB")
    return total


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """OpenMP makes no threads inside, which would not survive the fork that starts the processes of a CPU run."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def largest_image(train: DictConfig) -> tuple[tuple[int, int], int]:
    """Size (height, width) that a batch of the data may be padded to, and most objects, in a sample of the records.

    Args:
        train: a config's `dataloader.train`.
    """
    node = copy.deepcopy(train)
    node.update({"total_batch_size": 1, "num_workers": 0})
    with building("dataloader.train"):
        loader = build_train_loader(node, seed=0)
        records = [batch[0] for batch in itertools.islice(loader, SAMPLES)]
    sizes = [tuple(record["image"].shape[-2:]) for record in records]
    groups = [sizes]
    if node.get("aspect_ratio_grouping", True):
        groups = [[hw for hw in sizes if (hw[1] > hw[0]) is wide] for wide in (True, False)]
    canvases = [(max(h for h, _ in group), max(w for _, w in group)) for group in groups if group]
    return max(canvases, key=lambda hw: hw[0] * hw[1]), max(len(record["instances"]) for record in records)
