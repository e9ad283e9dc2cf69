"""Cascade Mask R-CNN on a DINOv2-B, otherwise as mask_rcnn_dinov2_b_100ep: 1024 pixels, 100 epochs of COCO.

    python tools/train_net.py --config-file projects/rcnn_dinov2/configs/COCO/cascade_mask_rcnn_dinov2_b_100ep.py \
        --num-gpus 8 --num-machines 8 --machine-rank N --dist-url tcp://HOST:PORT

Needs the real detectron2. Hardware it is meant for: 64 GPUs with 24 GB or more, batch 64 in all. Not yet trained.
"""

from ..models.cascade_mask_rcnn_dinov2 import model
from .mask_rcnn_dinov2_b_100ep import dataloader, lr_multiplier, optimizer, schedule, train

model.backbone.square_pad = "${dataloader.image.size}"
train.output_dir = "./output/cascade_mask_rcnn_dinov2_b_100ep"
