"""The head of a recipe: all of the reference recipe, and the names that pages use in the pieces that they show."""

from detectron2.config import LazyCall as L  # noqa: F401
from detectron2.layers import ShapeSpec  # noqa: F401

import dinov2_detrex  # noqa: F401  makes detectron2 importable
from dinov2_detrex.backbone import TimmBackbone  # noqa: F401
from dinov2_detrex.config.loading import load

base = load("dino_dinov2_b_12ep", [])
dataloader, lr_multiplier, model, optimizer, schedule, train = (
    base[name] for name in ("dataloader", "lr_multiplier", "model", "optimizer", "schedule", "train")
)
