"""Step schedules for COCO at batch 16; an epoch counts as 7,500 iterations (120,000 images / 16)."""

from detectron2.config import LazyCall as L
from detectron2.solver import WarmupParamScheduler
from fvcore.common.param_scheduler import MultiStepParamScheduler

ITERS_PER_EPOCH = 7500


def default_coco_scheduler(epochs: int = 50, decay_epochs: int = 40, warmup_epochs: float = 0):
    """One drop to a tenth after `decay_epochs` of `epochs`, with `warmup_epochs` of linear warm-up."""
    return L(WarmupParamScheduler)(
        scheduler=L(MultiStepParamScheduler)(
            values=[1.0, 0.1], milestones=[decay_epochs * ITERS_PER_EPOCH, epochs * ITERS_PER_EPOCH]
        ),
        warmup_length=warmup_epochs / epochs,
        warmup_method="linear",
        warmup_factor=0.001,
    )


lr_multiplier_12ep = default_coco_scheduler(12, 11)
lr_multiplier_24ep = default_coco_scheduler(24, 20)
lr_multiplier_36ep = default_coco_scheduler(36, 30)
lr_multiplier_50ep = default_coco_scheduler(50, 40)
lr_multiplier_12ep_warmup = default_coco_scheduler(12, 11, 1e-3)
lr_multiplier_50ep_warmup = default_coco_scheduler(50, 40, 1e-3)
