"""DINO on DINOv2-B at 1024 pixels with windowed attention and large-scale jitter, 12 epochs of COCO.

Most blocks attend within windows, to which the pretrained ViT must adapt: it trains, deeper blocks faster.

    python tools/train_net.py --config-file projects/dino_dinov2/configs/COCO/dino_dinov2_b_1024_12ep.py --num-gpus 8

Hardware it is meant for: 8 GPUs with 40 GB or more, batch 16 in all. Not yet trained.
"""

from dinov2_detrex import get_config

from .dino_dinov2_b_ft_12ep import lr_multiplier, model, optimizer, schedule, train

dataloader = get_config("common/data/coco_lsj.py").dataloader
dataloader.image.size = 1024
dataloader.evaluator.output_dir = "${train.output_dir}"
model.backbone.net.window_size = 16  # cells: 4 x 4 windows of the 64 x 64 grid, every third block looks at all of it

train.output_dir = "./output/dino_dinov2_b_1024_12ep"
