"""Data set formats: COCO's JSON."""

from .builtin import register_all_coco
from .coco import convert_to_coco_json, load_coco_json, register_coco_instances

__all__ = ["convert_to_coco_json", "load_coco_json", "register_all_coco", "register_coco_instances"]
