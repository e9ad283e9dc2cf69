"""The tiny detector on the generated clutter with what detectors have learnt since DINO: more found in as many steps.

    dinov2-detrex data clutter
    dinov2-detrex compare dino_dinov2_tiny_clutter dino_dinov2_tiny_plus_clutter

Each change alone and all together were measured on real photographs and on this data (benchmarks/RESULTS.md). Inference
computes what dino_dinov2_tiny_clutter.py's does, but for a norm before each level of the pyramid.
Hardware it is meant for: any CPU. Not yet trained to its end.
"""

from detectron2.config import LazyCall as L

from dinov2_detrex.training.lr import flat_then_cosine

from ..shapes.dino_dinov2_tiny_shapes import optimizer
from .dino_dinov2_tiny_clutter import dataloader, lr_multiplier, model, schedule, train

# fine levels from early layers of the ViT, the coarse ones from its last
model.backbone.in_feature = "${d2d.even_maps:${.net},3}"
model.backbone.net.out_indices = "${d2d.map_indices:${..in_feature}}"
model.backbone.fusion = "choice"

# a matched query's class target is how well its box fits, as in DEIM
model.criterion.loss_class_type = "mal_loss"
model.criterion.gamma = 1.5
model.criterion.matcher.cost_class_type = "modulated_focal_cost"
model.criterion.weight_dict.loss_class = 2.0

lr_multiplier.scheduler = L(flat_then_cosine)()

train.output_dir = "./output/dino_dinov2_tiny_plus_clutter"
