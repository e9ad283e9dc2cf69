"""Are the data sets of a config there? Asked before the model is built, and answered in one line."""

from pathlib import Path

from detectron2.data import DatasetCatalog, MetadataCatalog

from dinov2_detrex.data import datasets_root
from dinov2_detrex.training.errors import UserError
from dinov2_detrex.training.overrides import nearest_keys


class MissingDataset(UserError):
    """A data set is not registered, or its files are not where they should be."""


def check_datasets(cfg_dataloader, parts=("train", "test")) -> None:
    """Look for the annotation files and image folders of the data sets that the loaders name.

    Raises:
        MissingDataset: naming the data set, what is missing and where it is looked for.
    """
    for part in parts:
        for name in dataset_names(cfg_dataloader.get(part)):
            _check(name)


def dataset_names(cfg_loader) -> list[str]:
    """The registered names a loader reads; [] where its `dataset` is something else."""
    dataset = cfg_loader.get("dataset") if cfg_loader is not None else None
    names = dataset.get("names") if hasattr(dataset, "get") else None
    return [names] if isinstance(names, str) else [name for name in names or [] if isinstance(name, str)]


def dataset_metadata(cfg_loader) -> dict:
    """Class names and ids of the loader's first data set, plain enough for a checkpoint; {} where it has none."""
    names = dataset_names(cfg_loader)
    metadata = MetadataCatalog.get(names[0]).as_dict() if names else {}
    if "thing_classes" not in metadata:
        return {}
    ids = dict(metadata.get("thing_dataset_id_to_contiguous_id", {}))
    return {"thing_classes": list(metadata["thing_classes"]), "thing_dataset_id_to_contiguous_id": ids}


def _check(name: str) -> None:
    if name not in DatasetCatalog.list():
        near = nearest_keys(name, DatasetCatalog.list()) or DatasetCatalog.list()
        raise MissingDataset(f"data set {name!r} is not registered; registered are e.g. {', '.join(near[:5])}")
    metadata = MetadataCatalog.get(name)
    json_file, image_root = getattr(metadata, "json_file", None), getattr(metadata, "image_root", None)
    missing = []
    if json_file and "://" not in str(json_file) and not Path(json_file).is_file():
        missing.append(f"annotations {Path(json_file).resolve()}")
    if image_root and "://" not in str(image_root) and not Path(image_root).is_dir():
        missing.append(f"images in {Path(image_root).resolve()}/")
    if missing:
        raise MissingDataset(
            f"data set {name!r} is missing: expected {' and '.join(missing)}. Put it there, or set "
            f"DETECTRON2_DATASETS to the folder that holds the data sets (now {datasets_root()})"
        )
