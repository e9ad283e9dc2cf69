"""The tiny detector on the generated clutter with what detectors have learnt since DINO: more found in as many steps.

    dinov2-detrex data clutter
    dinov2-detrex compare dino_dinov2_tiny_clutter dino_dinov2_tiny_plus_clutter

Each change was measured alone on real photographs, all together there and on this data (benchmarks/RESULTS.md).
Inference computes what dino_dinov2_tiny_clutter.py's does, but for a norm before each level of the pyramid.
Hardware it is meant for: any CPU. Not yet trained to its end.
"""

from ..models.plus import backbone as _backbone
from ..models.plus import criterion as _criterion
from ..models.plus import scheduler as _scheduler
from ..shapes.dino_dinov2_tiny_shapes import optimizer
from .dino_dinov2_tiny_clutter import dataloader, lr_multiplier, model, schedule, train

model.backbone.merge_with(_backbone)
model.criterion.merge_with(_criterion)
lr_multiplier.scheduler = _scheduler

train.output_dir = "./output/dino_dinov2_tiny_plus_clutter"
