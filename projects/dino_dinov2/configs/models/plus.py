"""What the plus recipes change, each in the part that it is merged into.

Each helped a tiny trained detector on real photographs, alone and with the others: benchmarks/RESULTS.md.
"""

from detectron2.config import LazyCall as L

from dinov2_detrex.training.lr import flat_then_cosine

# model.backbone: a layer of the ViT for each level, the early ones for the fine levels, since the last has forgotten
# where edges are
backbone = dict(
    in_feature="${d2d.even_maps:${.net},3}",
    fusion="choice",
    net=dict(out_indices="${d2d.map_indices:${..in_feature}}"),
)

# model.criterion: a matched query's class target is how well its box fits, as in DEIM, and counts twice
criterion = dict(
    loss_class_type="mal_loss",
    gamma=1.5,
    matcher=dict(cost_class_type="modulated_focal_cost"),
    weight_dict=dict(loss_class=2.0),
)

# lr_multiplier.scheduler: the rate stays for half of the run, then falls as a cosine
scheduler = L(flat_then_cosine)()
