"""A tiny detector from random weights on your own data, on a CPU in minutes, with the quickstart's optimizer.

    python tools/train_net.py --config-file projects/dino_dinov2/configs/custom/dino_dinov2_tiny_plus_custom.py \
        data.path=my/folder

As dino_dinov2_tiny_custom.py, with which benchmarks/RESULTS.md compares it.
Hardware it is meant for: any CPU.
"""

from ..clutter.dino_dinov2_tiny_plus_clutter import optimizer
from .dino_dinov2_tiny_custom import data, dataloader, lr_multiplier, model, schedule, train

model.criterion.weight_dict.loss_class = 2.0

train.output_dir = "./output/dino_dinov2_tiny_plus_custom"
