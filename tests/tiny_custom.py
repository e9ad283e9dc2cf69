"""Overrides that make the recipe for own data small enough for a test."""

import torch
from detectron2.config import instantiate

from dinov2_detrex.config import recipes_dir
from dinov2_detrex.config.loading import load
from dinov2_detrex.config.pretrained import without_pretrained

CUSTOM_RECIPE = str(recipes_dir() / "projects/dino_dinov2/configs/custom/dino_dinov2_s_custom.py")
TINY_CUSTOM = [
    "model.backbone.net.embed_dim=32",
    "model.backbone.net.depth=1",
    "model.backbone.net.num_heads=2",
    "model.embed_dim=32",
    "model.neck.norm_layer.num_groups=4",
    "model.num_queries=10",
    "model.select_box_nums_for_evaluation=10",
    "model.transformer.encoder.num_layers=1",
    "model.transformer.encoder.num_heads=2",
    "model.transformer.encoder.feedforward_dim=32",
    "model.transformer.decoder.num_layers=1",
    "dataloader.image.size=64",
    "train.device=cpu",
]


def scoring_detector(*overrides):
    """(config, detector): untrained, of three classes, with scores that differ from box to box and class to class."""
    cfg = load(CUSTOM_RECIPE, [*TINY_CUSTOM, "model.num_classes=3", *overrides])
    torch.manual_seed(0)
    model = instantiate(without_pretrained(cfg).model)
    with torch.no_grad():
        model.class_embed[0].weight.normal_()
    return cfg, model
