"""Cascade Mask R-CNN on a DINOv2-L, otherwise as mask_rcnn_dinov2_l_100ep: 1024 pixels, 100 epochs of COCO.

    python tools/train_net.py --config-file projects/rcnn_dinov2/configs/COCO/cascade_mask_rcnn_dinov2_l_100ep.py \
        --num-gpus 8 --num-machines 8 --machine-rank N --dist-url tcp://HOST:PORT

Needs the real detectron2. Hardware it is meant for: 64 GPUs with 32 GB or more, batch 64 in all. Not yet trained.
"""

from ..models.cascade_mask_rcnn_dinov2 import model
from .mask_rcnn_dinov2_l_100ep import dataloader, lr_multiplier, optimizer, schedule, train

model.backbone.square_pad = "${dataloader.image.size}"
model.backbone.net.model_name = "vit_large_patch14_dinov2.lvd142m"
model.backbone.net.drop_path_rate = 0.4
train.output_dir = "./output/cascade_mask_rcnn_dinov2_l_100ep"
