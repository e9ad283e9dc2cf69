"""DINO on a frozen DINOv2-B, 50 epochs of COCO.

    python tools/train_net.py --config-file projects/dino_dinov2/configs/COCO/dino_dinov2_b_50ep.py --num-gpus 8

Hardware it is meant for: 8 GPUs with 24 GB or more, batch 16 in all. Not yet trained.
"""

from .dino_dinov2_b_12ep import dataloader, lr_multiplier, model, optimizer, schedule, train

schedule.epochs = 50
schedule.decay_epoch = "${d2d.share:${.epochs},4,5}"  # 40
train.output_dir = "./output/dino_dinov2_b_50ep"
