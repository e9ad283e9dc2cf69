"""A tiny detector from random weights on your own data, on a CPU in minutes: the whole path before a GPU is at hand.

    python tools/train_net.py --config-file projects/dino_dinov2/configs/custom/dino_dinov2_tiny_custom.py \
        data.path=my/folder

Pictures are shrunk to 160 pixels, so objects of a few percent of them are lost; a detector for use starts from
pretrained weights (dino_dinov2_s_custom.py). This one is trained as DINO was published, the reference of a comparison
in benchmarks/RESULTS.md; dino_dinov2_tiny_plus_custom.py detects more.
Hardware it is meant for: any CPU.
"""

from ..clutter.dino_dinov2_tiny_clutter import lr_multiplier, model, optimizer, schedule, train
from .dino_dinov2_s_frozen_custom import data, dataloader

dataloader.image.size = 160  # of the longer side

model.num_classes = "${d2d.classes_in:${data.train.json},1}"  # 1 until there are data; training needs them

schedule.images_per_epoch = "${d2d.images_in:${data.train.json},1}"
schedule.epochs = 20

train.output_dir = "./output/dino_dinov2_tiny_custom"
