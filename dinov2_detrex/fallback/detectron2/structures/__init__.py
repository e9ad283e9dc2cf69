"""What passes between data, model and evaluation: boxes, instances, image batches, masks."""

from detectron2.left_out import refuse

from .boxes import Boxes, BoxMode, pairwise_iou
from .image_list import ImageList
from .instances import Instances
from .masks import BitMasks, PolygonMasks, polygons_to_bitmask

__all__ = [
    "BitMasks",
    "BoxMode",
    "Boxes",
    "ImageList",
    "Instances",
    "PolygonMasks",
    "pairwise_iou",
    "polygons_to_bitmask",
]

__getattr__ = refuse(__name__, "Keypoints", "ROIMasks", "RotatedBoxes", "pairwise_ioa", "pairwise_iou_rotated")
