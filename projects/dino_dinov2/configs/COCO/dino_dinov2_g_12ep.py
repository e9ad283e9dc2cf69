"""DINO on a frozen DINOv2-g (1.1 billion parameters), 12 epochs of COCO.

Frozen, it keeps no activations; sharded over the processes (FSDP2) its weights take little memory as well, and
`train.fsdp.enabled=False` takes DDP. All layers are checkpointed, the ViT's for `model.backbone.net.freeze=False`.

    python tools/train_net.py --config-file projects/dino_dinov2/configs/COCO/dino_dinov2_g_12ep.py --num-gpus 8

Hardware it is meant for: 8 GPUs with 40 GB or more, batch 16 in all. Not yet trained.
"""

from .dino_dinov2_b_12ep import dataloader, lr_multiplier, model, optimizer, schedule, train

model.backbone.net.model_name = "vit_giant_patch14_dinov2.lvd142m"
model.backbone.net.use_act_checkpoint = True  # of blocks that train
model.transformer.encoder.use_checkpoint = True
model.transformer.decoder.use_checkpoint = True
train.fsdp.enabled = True

train.output_dir = "./output/dino_dinov2_g_12ep"
