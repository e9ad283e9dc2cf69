"""Are the data sets of a config there, and sound? Asked before the model is built, and answered in one line."""

import logging
from collections.abc import Sequence
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog, get_detection_dataset_dicts
from detectron2.utils.registry import locate
from omegaconf import DictConfig

from dinov2_detrex.data.registration import class_names_of, coco_dataset_dicts, source_in_config, usable_source
from dinov2_detrex.data.source import DataSource, format_of, split_path
from dinov2_detrex.runtime.errors import UserError, nearest_names

logger = logging.getLogger(__name__)

_SHOWN_CLASSES = 10
CHECK_OPTIONS = ("check", "skip_bad_images", "classes_from")  # arguments of a config's data set that ask for checks


def check_datasets(cfg_dataloader: DictConfig, splits: Sequence[str] = ("train", "test")) -> None:
    """Look for the files of the data sets that the loaders name, and check the data where the config asks for it.

    What is found in the parts of a folder is said in one log line. A name that is not registered is left to a `dataset`
    of the user's own, which may register it.

    Raises:
        DatasetError: naming the data set, and what is missing or wrong.
        UserError: the name is not registered, and nothing in the config registers it.
    """
    found = {}
    for split in splits:
        loader = cfg_dataloader.get(split)
        for name in dataset_names(loader):
            source = source_in_config(loader.dataset, name)
            if source is not None:
                found[split] = source
                usable_source(source, **{key: loader.dataset[key] for key in CHECK_OPTIONS if key in loader.dataset})
            elif name not in DatasetCatalog.list() and _reads_registered_names(loader.dataset):
                near = nearest_names(name, DatasetCatalog.list()) or sorted(DatasetCatalog.list())
                raise UserError(f"data set {name!r} is not registered; registered are e.g. {', '.join(near[:5])}")
    _log_parts(found)


def _log_parts(found: dict[str, DataSource]) -> None:
    """One line about what was found where folders were asked for their parts; nothing where files were named."""
    parts = {use: source for use, source in found.items() if split_path(source.path)[1] is not None}
    if not parts:
        return
    first = next(iter(parts.values()))
    counts = [f"{use} {source.path}: {source.num_images} images" for use, source in parts.items()]
    names = list(first.classes.values())
    shown = ", ".join(names[:_SHOWN_CLASSES]) + (", ..." if len(names) > _SHOWN_CLASSES else "")
    form = format_of(split_path(first.path)[0]).name
    logger.info("found data of the format %s: %s; %d classes: %s", form, "; ".join(counts), len(names), shown)


def dataset_names(cfg_loader: DictConfig | None) -> list[str]:
    """The registered names a loader reads; [] where its `dataset` is something else."""
    dataset = None if cfg_loader is None else cfg_loader.get("dataset")
    names = dataset.get("names") if isinstance(dataset, DictConfig) else None
    return [names] if isinstance(names, str) else [name for name in names or [] if isinstance(name, str)]


def class_names(cfg_loader: DictConfig) -> list[str]:
    """Class names of the loader's first data set by contiguous index, before it is loaded; [] where it has none."""
    names = dataset_names(cfg_loader)
    if not names:
        return []
    given = cfg_loader.dataset.get("json_file") is not None  # what is registered under the name may be other files
    source = source_in_config(cfg_loader.dataset, names[0]) if given else None
    return class_names_of(names[0]) if source is None else list(source.classes.values())


def dataset_metadata(cfg_loader: DictConfig) -> dict[str, Any]:
    """Class names and ids of the loader's first data set, plain enough for a checkpoint; {} where it has none."""
    names = dataset_names(cfg_loader)
    metadata = MetadataCatalog.get(names[0]).as_dict() if names else {}
    if "thing_classes" not in metadata:
        return {}
    ids = dict(metadata.get("thing_dataset_id_to_contiguous_id", {}))
    return {"thing_classes": list(metadata["thing_classes"]), "thing_dataset_id_to_contiguous_id": ids}


def _reads_registered_names(cfg_dataset: DictConfig) -> bool:
    """True for the two functions that take a name from detectron2's catalog, given as such or by a dotted name."""
    target = cfg_dataset.get("_target_")
    return (locate(target) if isinstance(target, str) else target) in (get_detection_dataset_dicts, coco_dataset_dicts)
