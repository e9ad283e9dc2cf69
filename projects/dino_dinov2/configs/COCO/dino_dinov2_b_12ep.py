"""DINO on a frozen DINOv2-B at patch 16, four levels, 12 epochs of COCO: the reference recipe.

    python tools/train_net.py --config-file projects/dino_dinov2/configs/COCO/dino_dinov2_b_12ep.py --num-gpus 8

Hardware it is meant for: 8 GPUs with 24 GB or more, batch 16 in all. Not yet trained with this package; the project
that it grew from reports 51.9 box AP for this setting.
"""

from dinov2_detrex import get_config

from ..models.dino_dinov2 import model

dataloader = get_config("common/data/coco_detr.py").dataloader
optimizer = get_config("common/optim.py").AdamW
_run = get_config("common/schedule.py")  # 12 epochs of 7,500 iterations, the rate drops after 11
schedule, lr_multiplier, train = _run.schedule, _run.lr_multiplier, _run.train

optimizer.lr = 1e-4
optimizer.weight_decay = 1e-4

train.output_dir = "./output/dino_dinov2_b_12ep"
train.clip_grad.enabled = True
train.clip_grad.params.max_norm = 0.1

dataloader.evaluator.output_dir = "${train.output_dir}"
