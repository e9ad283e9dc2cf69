"""DINO on a frozen DINOv2-B with what detectors have learnt since DINO, 12 epochs of COCO.

    python tools/train_net.py --config-file projects/dino_dinov2/configs/COCO/dino_dinov2_b_plus_12ep.py --num-gpus 8

Hardware it is meant for: 8 GPUs with 40 GB or more, batch 16 in all. Not yet trained: its differences are what helped a
tiny trained detector on real photographs, and none is measured on COCO. benchmarks/RESULTS.md has what each gave there,
and what was left out since it did not help: groups of training queries, augmentation, averaged weights. At inference
the norms of the three layers alone cost anything.
"""

from detectron2.config import LazyCall as L

from dinov2_detrex.training.lr import flat_then_cosine

from .dino_dinov2_b_12ep import dataloader, lr_multiplier, model, optimizer, schedule, train

# a layer of the ViT for each level, blocks 4, 8 and 12 of 12, the early one for the fine level: the last one has
# forgotten where edges are
model.backbone.in_feature = "${d2d.even_maps:${.net},3}"
model.backbone.net.out_indices = "${d2d.map_indices:${..in_feature}}"
model.backbone.fusion = "choice"

# a matched query's class target is how well its box fits, as in DEIM; and detrex's later weight
model.criterion.loss_class_type = "mal_loss"
model.criterion.gamma = 1.5
model.criterion.matcher.cost_class_type = "modulated_focal_cost"
model.criterion.weight_dict.loss_class = 2.0

# the rate stays for half of the run, then falls as a cosine
lr_multiplier.scheduler = L(flat_then_cosine)()
schedule.warmup_iters = 1000

train.output_dir = "./output/dino_dinov2_b_plus_12ep"
