"""DINO on a DINOv2-B that is fine-tuned with layer-wise learning-rate decay, 12 epochs of COCO.

    python tools/train_net.py --config-file projects/dino_dinov2/configs/COCO/dino_dinov2_b_ft_12ep.py --num-gpus 8

Hardware it is meant for: 8 GPUs with 40 GB or more, batch 16 in all. Not yet trained.
"""

from detectron2.config import LazyCall as L

from dinov2_detrex.backbone import BackboneLrFactor

from .dino_dinov2_b_12ep import dataloader, lr_multiplier, model, optimizer, schedule, train

model.backbone.net.freeze = "embed"  # patches and positions stay, the blocks train
model.backbone.net.use_act_checkpoint = True
optimizer.params.lr_factor_func = L(BackboneLrFactor)(
    lr_decay_rate=0.7,
    num_layers="${d2d.num_blocks:${model.backbone.net}}",
)

train.output_dir = "./output/dino_dinov2_b_ft_12ep"
