"""Data set formats: COCO's JSON."""

from detectron2.left_out import refuse

from .builtin import register_all_coco
from .coco import convert_to_coco_json, load_coco_json, register_coco_instances

__all__ = ["convert_to_coco_json", "load_coco_json", "register_all_coco", "register_coco_instances"]

__getattr__ = refuse(
    __name__, "load_sem_seg", "load_voc_instances", "register_coco_panoptic", "register_lvis_instances"
)
