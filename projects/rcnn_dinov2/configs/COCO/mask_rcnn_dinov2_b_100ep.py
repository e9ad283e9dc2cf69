"""Mask R-CNN on a DINOv2-B that trains with windowed attention, 1024 pixels, 100 epochs of COCO, as ViTDet does.

    python tools/train_net.py --config-file projects/rcnn_dinov2/configs/COCO/mask_rcnn_dinov2_b_100ep.py \
        --num-gpus 8 --num-machines 8 --machine-rank N --dist-url tcp://HOST:PORT

Needs the real detectron2. Hardware it is meant for: 64 GPUs with 24 GB or more, batch 64 in all; fewer GPUs take
`train.accumulate.steps`, or a smaller `dataloader.train.total_batch_size` with `train.scale_lr` on. Not yet trained.
"""

from detectron2.config import LazyCall as L
from detectron2.evaluation import COCOEvaluator

from dinov2_detrex import get_config
from dinov2_detrex.backbone import BackboneLrFactor

from ..models.mask_rcnn_dinov2 import model

dataloader = get_config("common/data/coco_lsj.py").dataloader
optimizer = get_config("common/optim.py").AdamW
_run = get_config("common/schedule.py")
schedule, lr_multiplier, train = _run.schedule, _run.lr_multiplier, _run.train

# masks beside boxes; the image's size is written once
model.backbone.square_pad = "${dataloader.image.size}"
dataloader.train.total_batch_size = 64
for _mapper in (dataloader.train.mapper, dataloader.test.mapper):
    _mapper.mask_on = True
    _mapper.img_format = "${model.input_format}"
    _mapper.recompute_boxes = True  # large-scale jitter crops
dataloader.evaluator = L(COCOEvaluator)(  # detectron2's, which measures masks too
    dataset_name="${..test.dataset.names}",
    output_dir="${train.output_dir}",
)

# 100 epochs of 1,875 iterations; the rate drops to a tenth after 88.9 of them and to a hundredth after 96.3
schedule.epochs = 100
schedule.warmup_iters = 250
lr_multiplier.scheduler.values = [1.0, 0.1, 0.01]
lr_multiplier.scheduler.milestones = [  # in thousandths of an epoch, at 8/9 and 26/27 of the run
    f"${{d2d.scaled:${{d2d.share:${{schedule.epochs}},{_drop}}},1000}}" for _drop in ("8,9", "26,27", "1,1")
]

optimizer.lr = 1e-4
optimizer.weight_decay = 0.1
optimizer.params.overrides = {name: dict(weight_decay=0.0) for name in ("pos_embed", "cls_token", "reg_token")}
optimizer.params.lr_factor_func = L(BackboneLrFactor)(
    lr_decay_rate=0.7,
    num_layers="${d2d.num_blocks:${model.backbone.net}}",
)

train.output_dir = "./output/mask_rcnn_dinov2_b_100ep"
train.amp.enabled = True
train.ddp.fp16_compression = True
