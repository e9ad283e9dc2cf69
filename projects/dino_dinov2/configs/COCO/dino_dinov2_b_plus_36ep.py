"""DINO on a frozen DINOv2-B with what detectors have learnt since DINO, 36 epochs of COCO.

    python tools/train_net.py --config-file projects/dino_dinov2/configs/COCO/dino_dinov2_b_plus_36ep.py --num-gpus 8

Hardware it is meant for: 8 GPUs with 40 GB or more, batch 16 in all. Not yet trained.
"""

from .dino_dinov2_b_plus_12ep import dataloader, lr_multiplier, model, optimizer, schedule, train

schedule.epochs = 36
train.output_dir = "./output/dino_dinov2_b_plus_36ep"
