"""DINO on a frozen DINOv2-B at the checkpoint's own 518 pixels and patch 14, large-scale jitter, 12 epochs of COCO.

    python tools/train_net.py --config-file projects/dino_dinov2/configs/COCO/dino_dinov2_b_518_12ep.py --num-gpus 8

Hardware it is meant for: 8 GPUs with 24 GB or more, batch 16 in all. Not yet trained.
"""

from dinov2_detrex import get_config

from .dino_dinov2_b_12ep import lr_multiplier, model, optimizer, schedule, train

dataloader = get_config("common/data/coco_lsj.py").dataloader
dataloader.image.size = 518  # 37 x 37 patches; padded to 560, which all levels tile
dataloader.evaluator.output_dir = "${train.output_dir}"
model.backbone.net.patch_size = 14

train.output_dir = "./output/dino_dinov2_b_518_12ep"
