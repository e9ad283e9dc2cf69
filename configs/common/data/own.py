"""Own data without code: `data` names them, `train` and `test` are the data sets of a recipe's loaders.

A recipe takes `data` into its own top level. Without any of it, `data.root` is where the files are looked for.
"""

from detectron2.config import LazyCall as L

from dinov2_detrex.data import coco_dataset_dicts, datasets_root

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
train = L(coco_dataset_dicts)(
    names="custom_train",
    json_file="${data.train.json}",
    image_root="${data.train.images}",
    filter_empty=False,  # images without objects teach what is background
    check=True,
    if_missing="name yours with data.path=FOLDER, or data.train.json=FILE data.train.images=FOLDER",
    skip_bad_images=False,  # True leaves out images that are missing, unreadable or of another size
)
test = L(coco_dataset_dicts)(
    names="custom_val",
    json_file="${data.val.json}",
    image_root="${data.val.images}",
    filter_empty=False,
    check=True,
    if_missing="name yours with data.path=FOLDER, or data.val.json=FILE data.val.images=FOLDER",
    skip_bad_images="${dataloader.train.dataset.skip_bad_images}",
    classes_from="${data.train.json}",  # the same classes in the same order
)
