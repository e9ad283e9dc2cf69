"""DINO on a frozen DINOv2-S with what detectors have learnt since DINO, 12 epochs of COCO: the small model.

    python tools/train_net.py --config-file projects/dino_dinov2/configs/COCO/dino_dinov2_s_plus_12ep.py --num-gpus 8

Hardware it is meant for: 8 GPUs with 40 GB or more, batch 16 in all. Not yet trained.
"""

from .dino_dinov2_b_plus_12ep import dataloader, lr_multiplier, model, optimizer, schedule, train

model.backbone.net.model_name = "vit_small_patch14_dinov2.lvd142m"
train.output_dir = "./output/dino_dinov2_s_plus_12ep"
