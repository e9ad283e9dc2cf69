"""The generated clutter data set (`dinov2-detrex data clutter`): `$DETECTRON2_DATASETS/clutter`, 12 classes."""

from dinov2_detrex.data import datasets_root

from .shapes import dataloader

_root = datasets_root() / "clutter"

for _name, _dataset in (("train", dataloader.train.dataset), ("val", dataloader.test.dataset)):
    _dataset.names = f"clutter_{_name}"
    _dataset.json_file = str(_root / "annotations" / f"instances_{_name}.json")
    _dataset.image_root = str(_root / _name)
    _dataset.if_missing = "make it with `dinov2-detrex data clutter`"
