"""The tiny detector on the generated clutter with what helped elsewhere: the quickstart's optimizer and class weight.

    dinov2-detrex data clutter
    python tools/train_net.py --config-file projects/dino_dinov2/configs/clutter/dino_dinov2_tiny_plus_clutter.py

The model is dino_dinov2_tiny_clutter.py's. benchmarks/RESULTS.md has what both changes gave on the shapes and on real
photographs. Hardware it is meant for: any CPU. Not yet trained to its end.
"""

from ..shapes.dino_dinov2_tiny_shapes import optimizer
from .dino_dinov2_tiny_clutter import dataloader, lr_multiplier, model, schedule, train

model.criterion.weight_dict.loss_class = 2.0

train.output_dir = "./output/dino_dinov2_tiny_plus_clutter"
