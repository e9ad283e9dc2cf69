"""What do groups of training queries cost, and layers in the pyramid? Peak memory and time of a training step."""

import torch
from detectron2.config import LazyConfig, instantiate

from dinov2_detrex.analysis.benchmark.memory import RECIPE, memory_rows
from dinov2_detrex.analysis.benchmark.timing import as_table
from dinov2_detrex.analysis.cost import random_inputs
from dinov2_detrex.config import recipes_dir

LAYERS = {"in_feature": ["p2", "p5", "p8", "p11"], "out_indices": (2, 5, 8, 11)}
VARIANTS = {
    "the recipe": {},
    "4 groups of 300 queries": {"groups": 4, "queries": 300},
    "4 groups of 900 queries": {"groups": 4, "queries": 900},
    "4 layers in the pyramid": LAYERS,
}


def report(device: torch.device) -> str:
    """The table of `memory_rows`; every variant runs once."""
    title = f"{RECIPE}: one forward and backward, one 592-pixel image with three boxes"
    return f"{title}\n\n{as_table(memory_rows(build_detector, VARIANTS, device, 'detector'))}"


def build_detector(settings: dict) -> tuple[torch.nn.Module, list[dict]]:
    """The recipe's detector with random weights, and its input.

    Args:
        settings: "groups" and "queries" of the transformer; "in_feature" and "out_indices" of the pyramid.
    """
    config = LazyConfig.load(str(recipes_dir() / RECIPE)).model
    config.backbone.net.pretrained = False
    if "groups" in settings:
        config.transformer.one_to_many_groups = settings["groups"]
        config.transformer.one_to_many_queries = settings["queries"]
    if "in_feature" in settings:
        config.backbone.in_feature, config.backbone.net.out_indices = settings["in_feature"], settings["out_indices"]
    return instantiate(config), random_inputs((592, 592), batch=1, channels=3, boxes_per_image=3)
