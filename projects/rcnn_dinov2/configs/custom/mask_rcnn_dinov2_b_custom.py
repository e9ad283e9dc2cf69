"""Mask R-CNN on a DINOv2-B for your own data with masks, without code: JSONs in COCO's form or a folder of them,

    python tools/train_net.py --config-file projects/rcnn_dinov2/configs/custom/mask_rcnn_dinov2_b_custom.py \
        data.train.json=my/train.json data.train.images=my/images data.val.json=my/val.json data.val.images=my/images

with polygons, RLE, or both; every object that is not a crowd needs one. `data.path`, `data.split`, classes, ids and the
check are those of projects/dino_dinov2/configs/custom/dino_dinov2_s_custom.py.

Needs the real detectron2. Hardware it is meant for: one GPU with 24 GB or more. Not yet trained.
"""

from dinov2_detrex import get_config

from ..COCO.mask_rcnn_dinov2_b_100ep import dataloader, lr_multiplier, model, optimizer, schedule, train

_own = get_config("common/data/own.py")
data, dataloader.train.dataset, dataloader.test.dataset = _own.data, _own.train, _own.test
for _mapper in (dataloader.train.mapper, dataloader.test.mapper):
    _mapper.mask_format = "bitmask"  # takes polygons and RLE side by side
model.roi_heads.num_classes = "${d2d.classes_in:${data.train.json},1}"  # 1 until there are data; training needs them

schedule.images_per_epoch = "${d2d.images_in:${data.train.json},1}"
schedule.epochs = 50
schedule.warmup_iters = 100
dataloader.train.total_batch_size = 4
train.scale_lr.reference_batch_size = 64  # what optimizer.lr is meant for
train.scale_lr.rule = "sqrt"  # as AdamW asks for

train.output_dir = "./output/mask_rcnn_dinov2_b_custom"
train.checkpointer.max_to_keep = 3  # and model_best.pth
