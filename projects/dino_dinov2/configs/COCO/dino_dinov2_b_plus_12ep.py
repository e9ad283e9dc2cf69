"""DINO on a frozen DINOv2-B with what detectors have learnt since DINO, 12 epochs of COCO.

    python tools/train_net.py --config-file projects/dino_dinov2/configs/COCO/dino_dinov2_b_plus_12ep.py --num-gpus 8

Hardware it is meant for: 8 GPUs with 40 GB or more, batch 16 in all. Not yet trained: its differences are what other
detectors gained from, and none is measured on COCO with this one. benchmarks/RESULTS.md has what each costs, and what
was left out since it did not help where it was measured. At inference the four layers alone cost anything.
"""

from detectron2.config import LazyCall as L

from dinov2_detrex.training.lr import flat_then_cosine

from .dino_dinov2_b_12ep import dataloader, lr_multiplier, model, optimizer, schedule, train

# four layers of the ViT, blocks 3, 6, 9 and 12 of 12: the frozen last one has forgotten where edges are
model.backbone.in_feature = "${d2d.even_maps:${.net},4}"
model.backbone.net.out_indices = "${d2d.map_indices:${..in_feature}}"
model.backbone.fusion = "sum"

# detrex's later choice; a class target that follows the box (loss_class_type) did not help where it was measured
model.criterion.weight_dict.loss_class = 2.0

# every object is found four times more in training, by groups of 300 queries that evaluation does not have; a step of a
# frozen backbone takes 1.4 times as long
model.transformer.one_to_many_groups = 4
model.transformer.one_to_many_queries = "${d2d.scaled:${..num_queries},0.3334}"

# the averaged weights count; the rate stays for half of the run, then falls as a cosine
train.model_ema.enabled = True
train.model_ema.decay = 0.9997
train.model_ema.warmup = 2000
lr_multiplier.scheduler = L(flat_then_cosine)()
schedule.warmup_iters = 1000

# colour, blur and a box-keeping crop, but in the last sixth of the run, however long `schedule.min_iters` makes it
_passes = "${d2d.share:${train.max_iter},${dataloader.train.total_batch_size},${schedule.images_per_epoch}}"
dataloader.train.mapper.preset = "light"
dataloader.train.mapper.preset_epochs = "${d2d.share:" + _passes + ",5,6}"

train.output_dir = "./output/dino_dinov2_b_plus_12ep"
