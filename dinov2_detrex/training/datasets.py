"""Are the data sets of a config there, and sound? Asked before the model is built, and answered in one line."""

from detectron2.data import DatasetCatalog, MetadataCatalog

from dinov2_detrex.config.refusals import nearest_keys
from dinov2_detrex.data.classes import class_names_by_id
from dinov2_detrex.data.registration import CHECK_OPTIONS, class_names_of, usable_json
from dinov2_detrex.training.errors import UserError


def check_datasets(cfg_dataloader, parts=("train", "test")) -> None:
    """Look for the files of the data sets that the loaders name, and check the data where the config asks for it.

    Raises:
        DatasetError: naming the data set, and what is missing or wrong.
        UserError: the name is not registered.
    """
    for part in parts:
        loader = cfg_dataloader.get(part)
        for name in dataset_names(loader):
            json_file, image_root = _files(name, loader.dataset)
            if json_file and image_root and "://" not in f"{json_file}{image_root}":
                options = {key: loader.dataset[key] for key in CHECK_OPTIONS if key in loader.dataset}
                usable_json(name, json_file, image_root, **options)


def dataset_names(cfg_loader) -> list[str]:
    """The registered names a loader reads; [] where its `dataset` is something else."""
    dataset = cfg_loader.get("dataset") if cfg_loader is not None else None
    names = dataset.get("names") if hasattr(dataset, "get") else None
    return [names] if isinstance(names, str) else [name for name in names or [] if isinstance(name, str)]


def class_names(cfg_loader) -> list[str]:
    """Class names of the loader's first data set by contiguous index, before it is loaded; [] where it has none."""
    names = dataset_names(cfg_loader)
    if not names:
        return []
    json_file = cfg_loader.dataset.get("json_file")
    return list(class_names_by_id(json_file).values()) if json_file else class_names_of(names[0])


def dataset_metadata(cfg_loader) -> dict:
    """Class names and ids of the loader's first data set, plain enough for a checkpoint; {} where it has none."""
    names = dataset_names(cfg_loader)
    metadata = MetadataCatalog.get(names[0]).as_dict() if names else {}
    if "thing_classes" not in metadata:
        return {}
    ids = dict(metadata.get("thing_dataset_id_to_contiguous_id", {}))
    return {"thing_classes": list(metadata["thing_classes"]), "thing_dataset_id_to_contiguous_id": ids}


def _files(name: str, cfg_dataset) -> tuple[str | None, str | None]:
    """Annotation file and image folder: from the config, or as registered."""
    if cfg_dataset.get("json_file") is not None or cfg_dataset.get("image_root") is not None:
        return cfg_dataset.get("json_file"), cfg_dataset.get("image_root")
    if name not in DatasetCatalog.list():
        near = nearest_keys(name, DatasetCatalog.list()) or sorted(DatasetCatalog.list())
        raise UserError(f"data set {name!r} is not registered; registered are e.g. {', '.join(near[:5])}")
    metadata = MetadataCatalog.get(name)
    return getattr(metadata, "json_file", None), getattr(metadata, "image_root", None)
