"""detrex's H-Deformable-DETR (arXiv 2207.13080), two-stage, on a frozen DINOv2-B with a simple feature pyramid.

    PYTHONPATH=/path/to/detrex python tools/train_net.py --num-gpus 8 --config-file \
        projects/h_deformable_detr_dinov2/configs/COCO/h_deformable_detr_dinov2_b_12ep.py

Needs the real detectron2 and detrex; the detector is one of detrex's projects, which are not installed with it, so its
checkout must be on PYTHONPATH. Hardware it is meant for: 8 GPUs with 24 GB or more, batch 16 in all. Not yet trained.
"""

from pathlib import Path

from detectron2.config import LazyConfig

from dinov2_detrex import get_config

from ....dino_dinov2.configs.models.dino_dinov2 import model as _dino

try:
    from projects.h_deformable_detr import modeling as _modeling
except ModuleNotFoundError as error:
    raise ImportError("this detector is a project of detrex's checkout: PYTHONPATH=/path/to/detrex") from error

model = LazyConfig.load(str(Path(_modeling.__file__).parents[1] / "configs/models/h_deformable_detr_r50.py")).model
model.backbone, model.neck = _dino.backbone, _dino.neck  # four levels, as from a ResNet
model.backbone.net.dynamic_img_pad = True  # detrex pads a batch to its largest image, whatever the patch is
model.with_box_refine = model.as_two_stage = True
model.device = "${train.device}"  # it keeps its own

dataloader = get_config("common/data/coco_detr.py").dataloader
optimizer = get_config("common/optim.py").AdamW
_run = get_config("common/schedule.py")  # 12 epochs of 7,500 iterations, the rate drops after 11
schedule, lr_multiplier, train = _run.schedule, _run.lr_multiplier, _run.train

optimizer.lr = 1e-4
optimizer.weight_decay = 1e-4
train.clip_grad.enabled = True
train.device = "cuda"
train.output_dir = "./output/h_deformable_detr_dinov2_b_12ep"
dataloader.evaluator.output_dir = "${train.output_dir}"
