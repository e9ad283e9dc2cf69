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
classes starts from all of its weights but the class-sized ones.

Hardware it is meant for: one GPU with 12 GB or more. Not yet trained.
"""

from detectron2.config import LazyCall as L

from dinov2_detrex.data import coco_dataset_dicts, datasets_root

from ..COCO.dino_dinov2_s_12ep import dataloader, lr_multiplier, model, optimizer, schedule, train

data = dict(
    path=None,  # a folder with parts for training and validation, or a list of such, which say where their images are
    split=None,  # a fraction of its images to hold out for validation, where it has no part for that
    split_seed=0,  # another one holds other images out
    root=str(datasets_root() / "custom"),  # of the files below, where neither they nor `path` are given
    train=dict(
        json="${d2d.train_part:${data.path},${data.root}/train.json,${data.split},${data.split_seed}}",
        images="${d2d.unless:${data.path},${data.root}/train}",
    ),
    val=dict(
        json="${d2d.val_part:${data.path},${data.root}/val.json,${data.split},${data.split_seed}}",
        images="${d2d.unless:${data.path},${data.root}/val}",
    ),
)
dataloader.train.dataset = L(coco_dataset_dicts)(
    names="custom_train",
    json_file="${data.train.json}",
    image_root="${data.train.images}",
    filter_empty=False,  # images without objects teach what is background
    check=True,
    if_missing="name yours with data.path=FOLDER, or data.train.json=FILE data.train.images=FOLDER",
    skip_bad_images=False,  # True leaves out images that are missing, unreadable or of another size
)
dataloader.test.dataset = L(coco_dataset_dicts)(
    names="custom_val",
    json_file="${data.val.json}",
    image_root="${data.val.images}",
    filter_empty=False,
    check=True,
    if_missing="name yours with data.path=FOLDER, or data.val.json=FILE data.val.images=FOLDER",
    skip_bad_images="${dataloader.train.dataset.skip_bad_images}",
    classes_from="${data.train.json}",  # the same classes in the same order
)
model.num_classes = "${d2d.classes_in:${data.train.json},1}"  # 1 until there are data; training needs them

schedule.images_per_epoch = "${d2d.images_in:${data.train.json},1}"
schedule.epochs = 50
schedule.decay_epoch = "${d2d.share:${.epochs},4,5}"  # 40
schedule.warmup_iters = 100
dataloader.train.total_batch_size = 8
train.scale_lr.reference_batch_size = 16  # what optimizer.lr is meant for

train.output_dir = "./output/dino_dinov2_s_custom"
train.checkpointer.max_to_keep = 3  # and model_best.pth
