"""A tiny detector on your own data, on a CPU in minutes, with what detectors have learnt since DINO.

    python tools/train_net.py --config-file projects/dino_dinov2/configs/custom/dino_dinov2_tiny_plus_custom.py \
        data.path=my/folder train.init_checkpoint=output/dino_dinov2_tiny_shapes/model_final.pth

That checkpoint is the quickstart's; a detector of blood cells learnt from it in half of the steps. Everything else is
as in dino_dinov2_tiny_custom.py, with which benchmarks/RESULTS.md compares this one.
Hardware it is meant for: any CPU.
"""

from ..clutter.dino_dinov2_tiny_plus_clutter import lr_multiplier, model, optimizer, schedule, train
from .dino_dinov2_tiny_custom import data, dataloader

model.num_classes = "${d2d.classes_in:${data.train.json},1}"  # 1 until there are data; training needs them

schedule.images_per_epoch = "${d2d.images_in:${data.train.json},1}"
schedule.epochs = 20

train.output_dir = "./output/dino_dinov2_tiny_plus_custom"
