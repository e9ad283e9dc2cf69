"""Mask R-CNN on a DINOv2-L that trains with windowed attention, 1024 pixels, 100 epochs of COCO, as ViTDet does.

    python tools/train_net.py --config-file projects/rcnn_dinov2/configs/COCO/mask_rcnn_dinov2_l_100ep.py \
        --num-gpus 8 --num-machines 8 --machine-rank N --dist-url tcp://HOST:PORT

Needs the real detectron2. Hardware it is meant for: 64 GPUs with 32 GB or more, batch 64 in all. Not yet trained.
"""

from .mask_rcnn_dinov2_b_100ep import dataloader, lr_multiplier, model, optimizer, schedule, train

model.backbone.net.model_name = "vit_large_patch14_dinov2.lvd142m"
model.backbone.net.drop_path_rate = 0.4
optimizer.params.lr_factor_func.lr_decay_rate = 0.8  # over 24 blocks in place of 12
train.output_dir = "./output/mask_rcnn_dinov2_l_100ep"
