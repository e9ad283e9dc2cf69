"""Data: catalogs, COCO's format, transforms, mapper, samplers, loaders. Importing it registers the COCO names."""

import os

from . import catalog, common, dataset_mapper, datasets, detection_utils, samplers, transforms
from .build import build_detection_test_loader, build_detection_train_loader, get_detection_dataset_dicts
from .catalog import DatasetCatalog, Metadata, MetadataCatalog
from .common import DatasetFromList, MapDataset
from .dataset_mapper import DatasetMapper

__all__ = [
    "DatasetCatalog",
    "DatasetFromList",
    "DatasetMapper",
    "MapDataset",
    "Metadata",
    "MetadataCatalog",
    "build_detection_test_loader",
    "build_detection_train_loader",
    "catalog",
    "common",
    "dataset_mapper",
    "datasets",
    "detection_utils",
    "get_detection_dataset_dicts",
    "samplers",
    "transforms",
]

datasets.register_all_coco(os.path.expanduser(os.getenv("DETECTRON2_DATASETS", "datasets")))
