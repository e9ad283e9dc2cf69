"""DINO on a frozen DINOv2-B with five levels, strides 4 to 64, 12 epochs of COCO.

    python tools/train_net.py --config-file projects/dino_dinov2/configs/COCO/dino_dinov2_b_5scale_12ep.py --num-gpus 8

Hardware it is meant for: 8 GPUs with 48 GB or more, batch 16 in all; with half of that,
`model.transformer.encoder.use_checkpoint=True` (docs/costs.md says what it spares). Not yet trained.
"""

from .dino_dinov2_b_12ep import dataloader, lr_multiplier, model, optimizer, schedule, train

model.backbone.scale_factors = (4.0, 2.0, 1.0, 0.5)
train.output_dir = "./output/dino_dinov2_b_5scale_12ep"
