"""The quickstart's tiny detector on the generated clutter: a harder benchmark that still trains on a CPU.

    dinov2-detrex data clutter
    python tools/train_net.py --config-file projects/dino_dinov2/configs/clutter/dino_dinov2_tiny_clutter.py

Hardware it is meant for: any CPU. Not yet trained to its end.
"""

from dinov2_detrex import get_config

from ..shapes.dino_dinov2_tiny_shapes import lr_multiplier, model, optimizer, schedule, train

dataloader = get_config("common/data/clutter.py").dataloader
dataloader.train.total_batch_size = 8

model.backbone.net.img_size = 160  # the pictures' longest side
model.num_classes = 12
model.num_queries = 60  # up to 25 objects in an image
model.dn_number = 60

train.output_dir = "./output/dino_dinov2_tiny_clutter"
dataloader.evaluator.output_dir = "${train.output_dir}"
