"""The quickstart's tiny detector on the generated clutter, trained as DINO was published: a harder benchmark for a CPU.

    dinov2-detrex data clutter
    dinov2-detrex compare dino_dinov2_tiny_clutter dino_dinov2_tiny_plus_clutter

Hardware it is meant for: any CPU. Not yet trained to its end.
"""

from dinov2_detrex import get_config

from ..shapes.dino_dinov2_tiny_shapes import lr_multiplier, model, schedule, train

dataloader = get_config("common/data/clutter.py").dataloader
dataloader.train.total_batch_size = 8

optimizer = get_config("common/optim.py").AdamW
optimizer.lr = 1e-3  # a network this small, from random weights; the published 1e-4 hardly moves it
optimizer.betas = (0.9, 0.98)

model.backbone.net.img_size = 160  # the pictures' longest side
model.num_classes = 12
model.num_queries = 60  # up to 25 objects in an image
model.dn_number = 60
model.criterion.weight_dict.loss_class = 1.0

train.output_dir = "./output/dino_dinov2_tiny_clutter"
dataloader.evaluator.output_dir = "${train.output_dir}"
