"""Which names stand for COCO's files, under `$DETECTRON2_DATASETS`, else ./datasets."""

import os

from .builtin_meta import coco_instances_meta
from .coco import register_coco_instances

_SPLITS = {  # name: (json, images), both under coco/
    "coco_2014_train": ("annotations/instances_train2014.json", "train2014"),
    "coco_2014_val": ("annotations/instances_val2014.json", "val2014"),
    "coco_2014_minival": ("annotations/instances_minival2014.json", "val2014"),
    "coco_2014_valminusminival": ("annotations/instances_valminusminival2014.json", "val2014"),
    "coco_2017_train": ("annotations/instances_train2017.json", "train2017"),
    "coco_2017_val": ("annotations/instances_val2017.json", "val2017"),
    "coco_2017_val_100": ("annotations/instances_val2017_100.json", "val2017"),
    "coco_2017_test": ("annotations/image_info_test2017.json", "test2017"),
    "coco_2017_test-dev": ("annotations/image_info_test-dev2017.json", "test2017"),
}


def register_all_coco(root: str) -> None:
    """Register COCO's splits under `root`; no file is opened."""
    for name, (json_file, images) in _SPLITS.items():
        paths = (os.path.join(root, "coco", part) for part in (json_file, images))
        register_coco_instances(name, coco_instances_meta(), *paths)
