"""DINO on a frozen DINOv2-B at its native patch 14, 12 epochs of COCO.

Levels at strides 7, 14, 28 and 56; nothing of the checkpoint is resampled.

    python tools/train_net.py --config-file projects/dino_dinov2/configs/COCO/dino_dinov2_b_p14_12ep.py --num-gpus 8

Hardware it is meant for: 8 GPUs with 24 GB or more, batch 16 in all. Not yet trained.
"""

from .dino_dinov2_b_12ep import dataloader, lr_multiplier, model, optimizer, schedule, train

model.backbone.net.patch_size = 14
train.output_dir = "./output/dino_dinov2_b_p14_12ep"
