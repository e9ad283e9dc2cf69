"""DINO on a frozen DINOv2-B with what detectors have learnt since DINO, 12 epochs of COCO.

    python tools/train_net.py --config-file projects/dino_dinov2/configs/COCO/dino_dinov2_b_plus_12ep.py --num-gpus 8

Hardware it is meant for: 8 GPUs with 40 GB or more, batch 16 in all. Not yet trained: its differences are what helped a
tiny trained detector on real photographs, and none is measured on COCO. benchmarks/RESULTS.md has what each gave there,
and what was left out since it did not help: groups of training queries, augmentation, averaged weights. At inference
the norms of the three layers alone cost anything.
"""

from ..models.plus import backbone as _backbone
from ..models.plus import criterion as _criterion
from ..models.plus import scheduler as _scheduler
from .dino_dinov2_b_12ep import dataloader, lr_multiplier, model, optimizer, schedule, train

model.backbone.merge_with(_backbone)
model.criterion.merge_with(_criterion)
lr_multiplier.scheduler = _scheduler
schedule.warmup_iters = 1000

train.output_dir = "./output/dino_dinov2_b_plus_12ep"
