"""Data: sources of any known format, their check and registration, the training loader, the generated shapes set.

Names are imported at first use, so that `python -m dinov2_detrex.data.shapes` runs with numpy and Pillow alone.
"""

import importlib
from typing import Any

_HOME = {
    "datasets_root": "paths",
    "generate_clutter": "clutter",
    "generate_shapes": "shapes",
    "coco_dataset_dicts": "registration",
    "contact_sheet": ".visualization.sheets",
    "read_image": "image_reading",
    "DetrDatasetMapper": "mapper",
    "TrainLoader": "loader",
    "DataFormat": "source",
    "DataSource": "source",
    "read_source": "source",
    "register_format": "source",
    "check_coco_dataset": "check",
    "check_source": "check",
    "class_names_of": "registration",
    "class_names_by_id": "source",
    "count_classes": "source",
    "count_images": "source",
    "DatasetError": "errors",
    "DatasetNotFoundError": "errors",
}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'dinov2_detrex.data' has no attribute {name!r}; it exports {', '.join(__all__)}")
    return getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
