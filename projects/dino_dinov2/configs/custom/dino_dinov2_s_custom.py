"""DINO on a frozen DINOv2-S for your own data, without code: a folder in COCO's, YOLO's or Pascal VOC's form,

    python tools/train_net.py --config-file projects/dino_dinov2/configs/custom/dino_dinov2_s_custom.py \
        data.path=my/folder

whose own parts train, and val, valid or validation are used; others by name, `data.path=my/folder
data.train.json=my/folder#trainval data.val.json=my/folder#test`. A folder without a part for validation takes
`data.split=0.2`, which holds a fifth out by seed; `data.path=[my/folder,other/folder]` joins data sets of the same
classes. Or JSONs in COCO's form, four paths:

    python tools/train_net.py --config-file projects/dino_dinov2/configs/custom/dino_dinov2_s_custom.py \
        data.train.json=my/train.json data.train.images=my/images data.val.json=my/val.json data.val.images=my/images

Classes, their number and the length of an epoch come from the training data; any category ids will do, and the COCO
table and the predictions carry them. The data are checked first. `train.init_checkpoint=` a detector trained on other
classes starts from all of its weights, by class name where there is a row for each. For few images, or rare classes:
`schedule.min_iters=3000` (no shorter run), `model.backbone.net.freeze=lora` (adapters),
`dataloader.train.repeat_thresh=0.1` (repeat-factor sampling).

Hardware it is meant for: one GPU with 12 GB or more. Not yet trained.
"""

from dinov2_detrex import get_config

from ..COCO.dino_dinov2_s_12ep import dataloader, lr_multiplier, model, optimizer, schedule, train
from ..models.plus import criterion as _criterion

_own = get_config("common/data/own.py")
data, dataloader.train.dataset, dataloader.test.dataset = _own.data, _own.train, _own.test
model.num_classes = "${d2d.classes_in:${data.train.json},1}"  # 1 until there are data; training needs them

model.criterion.merge_with(_criterion)  # a class target that follows the box

schedule.images_per_epoch = "${d2d.images_in:${data.train.json},1}"
schedule.epochs = 50
schedule.decay_epoch = "${d2d.share:${.epochs},4,5}"  # 40
schedule.warmup_iters = 100
dataloader.train.total_batch_size = 8
train.scale_lr.reference_batch_size = 16  # what optimizer.lr is meant for

train.output_dir = "./output/dino_dinov2_s_custom"
train.checkpointer.max_to_keep = 3  # and model_best.pth
