"""DINO on a frozen DINOv3-B (patch 16, rotary positions, registers), 12 epochs of COCO.

    python tools/train_net.py --config-file projects/dino_dinov2/configs/COCO/dino_dinov3_b_12ep.py --num-gpus 8

Hardware it is meant for: 8 GPUs with 24 GB or more, batch 16 in all. Not yet trained.
"""

from .dino_dinov2_b_12ep import dataloader, lr_multiplier, model, optimizer, schedule, train

model.backbone.net.model_name = "vit_base_patch16_dinov3.lvd1689m"
train.output_dir = "./output/dino_dinov3_b_12ep"
