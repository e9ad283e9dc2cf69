"""COCO 2017 with large-scale jitter (Ghiasi et al. 2021, Copy-Paste, section 3): one square image size for all.

The image is scaled by 0.1 to 2 of what fits a square of `dataloader.image.size` pixels, then cropped to at most that
square. The mapper hands the crop on without its padding; the detector pads and masks.
"""

import detectron2.data.transforms as T
from detectron2.config import LazyCall as L

from .coco_detr import dataloader

_SIZE = "${.....image.size}"

dataloader.image = dict(size=1024)
dataloader.train.mapper.augmentation = [
    L(T.RandomFlip)(),
    L(T.ResizeScale)(min_scale=0.1, max_scale=2.0, target_height=_SIZE, target_width=_SIZE),
    L(T.FixedSizeCrop)(crop_size=["${......image.size}", "${......image.size}"], pad=False),
]
dataloader.train.mapper.augmentation_with_crop = None
dataloader.test.mapper.augmentation = [L(T.ResizeShortestEdge)(short_edge_length=_SIZE, max_size=_SIZE)]
