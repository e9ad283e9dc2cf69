"""What does freezing the backbone spare? Peak memory and time of a whole detector's forward and backward."""

import multiprocessing
import resource
from collections.abc import Callable
from pathlib import Path
from typing import cast

import torch
from detectron2.config import LazyConfig, instantiate

from dinov2_detrex.analysis.benchmark.timing import as_table, now
from dinov2_detrex.config import recipes_dir
from dinov2_detrex.data.random_records import random_inputs
from dinov2_detrex.runtime.allocations import resident_peak_bytes

RECIPE = "projects/dino_dinov2/configs/COCO/dino_dinov2_b_12ep.py"
VARIANTS = {
    "trained": {"freeze": False},
    "trained, activation checkpointing": {"use_act_checkpoint": True, "freeze": False},
    "first 9 blocks frozen": {"freeze": 9},
    "frozen": {"freeze": True},
}


def report(device: torch.device, model_name: str) -> str:
    """The table of `memory_rows`; every variant runs once."""
    variants = {name: {**settings, "model_name": model_name} for name, settings in VARIANTS.items()}
    title = f"{RECIPE} on {model_name}: one forward and backward, one 592-pixel image with three boxes"
    return f"{title}\n\n{as_table(memory_rows(build_detector, variants, device))}"


def build_detector(settings: dict) -> tuple[torch.nn.Module, list[dict]]:
    """The recipe's detector with random weights, and its input.

    Args:
        settings: of the ViT, instead of the recipe's.
    """
    config = LazyConfig.load(str(recipes_dir() / RECIPE)).model
    config.backbone.net = {**config.backbone.net, "pretrained": False, **settings}
    return instantiate(config), random_inputs((592, 592), batch=1, channels=3, boxes_per_image=3)


def memory_rows(
    build: Callable[[dict], tuple], variants: dict[str, dict], device: torch.device, what: str = "backbone"
) -> list[dict]:
    """Peak memory of one training step for each variant, each in a process of its own.

    Args:
        build: variant's settings -> (model, its inputs); must be importable, the model returns a dict of losses.
        variants: name -> settings.
        device: where the model runs.
        what: differs, the heading of the names.
    """
    context = multiprocessing.get_context("spawn")
    rows = []
    for name, settings in variants.items():
        with context.Pool(1) as pool:
            rows.append({what: name, **pool.apply(training_step_memory, (build, settings, device))})
    most = rows[0]["step, s"]
    return [{**row, "time : first row": row["step, s"] / most} for row in rows]


def training_step_memory(build: Callable[[dict], tuple], settings: dict, device: torch.device) -> dict:
    """Build, run one forward and backward; the rise of the peak above the built model (MiB), and the time (s)."""
    torch.set_num_threads(1)  # so that CPU time is time
    model, inputs = build(settings)
    model.to(device).train()
    before, start = held_mib(device), now(device)
    cast(torch.Tensor, sum(model(inputs).values())).backward()
    seconds = now(device) - start
    return {"peak above the model, MiB": round(peak_mib(device) - before), "step, s": seconds}


def held_mib(device: torch.device) -> float:
    """Memory held now: by torch on the GPU, or by this process (Linux's own counter)."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device) / 2**20
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def peak_mib(device: torch.device) -> float:
    """Most memory held so far, counted as `held_mib` does."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resident_peak_bytes() / 2**20
