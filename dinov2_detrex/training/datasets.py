"""Are the data sets of a config there, and sound? Asked before the model is built, and answered in one line."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog, get_detection_dataset_dicts
from detectron2.evaluation import COCOEvaluator
from detectron2.utils.registry import locate
from omegaconf import DictConfig, OmegaConf

from dinov2_detrex import evaluation
from dinov2_detrex.config.classes import class_count
from dinov2_detrex.data.check import ObjectCounts
from dinov2_detrex.data.errors import DatasetError, one_line_of
from dinov2_detrex.data.registration import class_names_of, coco_dataset_dicts, source_in_config, used_source
from dinov2_detrex.data.source import SPLIT_MARK, DataSource, each_read_once, read_source
from dinov2_detrex.runtime.errors import UserError, nearest_names

logger = logging.getLogger(__name__)

_SHOWN_CLASSES = 10
CHECK_OPTIONS = ("check", "skip_bad_images", "classes_from")  # arguments of a config's data set that ask for checks


EVALUATORS = (COCOEvaluator, evaluation.COCOEvaluator)  # one class, unless the real detectron2 is installed
_EVALUATED_PER_CLASS = 100  # COCO's own limit, where an evaluator names none


@each_read_once()
def check_datasets(
    cfg_dataloader: DictConfig, splits: Sequence[str] = ("train", "test"), cfg_model: DictConfig | None = None
) -> None:
    """Look for the files of the data sets that the loaders name, and check the data where the config asks for it.

    What is found in the parts of a folder is said in one log line; in another, what the config's limits leave out of
    the fullest image. A name that is not registered is left to a `dataset` of the user's own, which may register it.

    Args:
        cfg_dataloader: the loaders, and the evaluator if there is one.
        splits: the loaders to look at.
        cfg_model: the model, whose number of classes must be the data's.

    Raises:
        DatasetError: naming the data set, and what is missing or wrong.
        UserError: the name is not registered, and nothing in the config registers it; or the model has another number
            of classes.
    """
    found, counts = {}, {}
    for split in splits:
        loader = cfg_dataloader.get(split)
        for name in dataset_names(loader):
            source = source_in_config(loader.dataset, name)
            if source is not None:
                found[split] = source
                objects = used_source(source, **_check_options(loader.dataset)).objects
                if objects is not None:
                    counts[split] = objects
                if split == "train":
                    _require_objects(source, objects)
                    _require_masks(source, objects, loader.get("mapper"))
            elif name not in DatasetCatalog.list() and _reads_registered_names(loader.dataset):
                near = nearest_names(name, DatasetCatalog.list()) or sorted(DatasetCatalog.list())
                raise UserError(f"data set {name!r} is not registered; registered are e.g. {', '.join(near[:5])}")
        if cfg_model is not None:
            _require_number_of_classes(cfg_model, loader, split)
    _log_parts(found)
    _log_limits(counts, cfg_dataloader, cfg_model or DictConfig({}))


def _check_options(cfg_dataset: DictConfig) -> dict[str, Any]:
    return {key: cfg_dataset[key] for key in CHECK_OPTIONS if key in cfg_dataset}


def _require_objects(source: DataSource, objects: ObjectCounts | None) -> None:
    """Refuse checked training data without an object, on which every picture would be background."""
    if objects is not None and not objects.total:
        listed = f"{source.num_images} images, {objects.crowds} crowds and ignored objects"
        raise DatasetError(f"{source.path}: there is no object to train on ({listed})")


def _require_masks(source: DataSource, objects: ObjectCounts | None, cfg_mapper: Any) -> None:
    """Refuse checked training data without the masks that the mapper is asked for, or with masks of another kind."""
    if objects is None or not isinstance(cfg_mapper, DictConfig) or not cfg_mapper.get("mask_on"):
        return
    if objects.without_mask:
        raise DatasetError(
            f"{source.path}: {objects.without_mask} of {objects.total} objects have no segmentation, which training on "
            f"masks needs, e.g. annotation {objects.first_without_mask}: leave them out, or let them be ignored with "
            "iscrowd=1"
        )
    if objects.rle and cfg_mapper.get("mask_format", "polygon") == "polygon":
        raise DatasetError(
            f"{source.path}: {objects.rle} of {objects.total} objects have RLE masks: set "
            "dataloader.train.mapper.mask_format=bitmask"
        )


def _require_number_of_classes(cfg_model: DictConfig, cfg_loader: DictConfig | None, split: str) -> None:
    """Refuse a model of another number of classes than the data's, where both are known."""
    if cfg_loader is None:
        return
    (key, asked), names = class_count(cfg_model), class_names(cfg_loader)
    if not names or asked is None or asked == len(names):
        return
    what = f"{', '.join(names[:_SHOWN_CLASSES])}{', ...' if len(names) > _SHOWN_CLASSES else ''}"
    raise UserError(
        f"{key}={asked}, but the data set {dataset_names(cfg_loader)[0]!r} of dataloader.{split} has "
        f"{len(names)} classes ({what}): set {key}={len(names)}"
    )


def _log_limits(counts: dict[str, ObjectCounts], cfg_dataloader: DictConfig, cfg_model: DictConfig) -> None:
    """One line where an image holds more objects than the model or the evaluation takes, with the overrides."""
    too_low = {}
    for split, objects in counts.items():
        for key, limit, needed in _limits(split, objects, cfg_dataloader, cfg_model):
            if limit < needed:
                too_low[key] = (limit, max(needed, too_low.get(key, (0, 0))[1]))
    if not too_low:
        return
    fullest = []
    for split, objects in counts.items():
        image, of_class = objects.fullest_image, objects.fullest_class
        most = f"{split}: {objects.in_fullest_image} objects in {image}"
        fullest.append(f"{most}, {objects.in_fullest_class} of the class {of_class[1]!r} in {of_class[0]}")
    limits = ", ".join(f"{key} is {limit}" for key, (limit, _) in too_low.items())
    overrides = " ".join(_overrides({key: needed for key, (_, needed) in too_low.items()}, cfg_dataloader, cfg_model))
    logger.warning(
        "the fullest images hold more objects than the config allows for (%s): %s; to take all: %s",
        one_line_of("; ".join(fullest)),
        limits,
        overrides,
    )


def _overrides(needed: dict[str, int], cfg_dataloader: DictConfig, cfg_model: DictConfig) -> list[str]:
    """What raises the limits: `model.max_objects` for those that follow it, and the others one by one."""
    root = {"model": cfg_model, "dataloader": cfg_dataloader}
    following = [key for key in needed if "max_objects" in cfg_model and _follows(root, key)]
    rest = [f"{key}={number}" for key, number in needed.items() if key not in following]
    return [*([f"model.max_objects={max(needed[key] for key in following)}"] if following else []), *rest]


def _follows(root: dict[str, DictConfig], key: str) -> bool:
    """True for an option that `model.max_objects` sets, unless the config has a number in its place."""
    section, *names, last = key.split(".")
    node = root[section]
    for name in names:
        node = node[name]
    return last != "dn_number" and last in node and OmegaConf.is_interpolation(node, last)


def _limits(
    split: str, objects: ObjectCounts, cfg_dataloader: DictConfig, cfg_model: DictConfig
) -> Iterator[tuple[str, int, int]]:
    """(override, its value, how much the fullest image needs) of each limit that matters for a split."""
    of_model = {"num_queries", "dn_number"} if split == "train" else {"num_queries", "select_box_nums_for_evaluation"}
    for key in sorted(of_model):
        value = cfg_model.get(key)
        if isinstance(value, int) and not (key == "dn_number" and value <= 0):  # 0: no denoising is wanted
            yield f"model.{key}", value, objects.in_fullest_image
    evaluator = cfg_dataloader.get("evaluator")
    if split != "train" and isinstance(evaluator, DictConfig) and _target(evaluator) in EVALUATORS:
        limit = evaluator.get("max_dets_per_image") or _EVALUATED_PER_CLASS
        yield "dataloader.evaluator.max_dets_per_image", limit, objects.in_fullest_class


def _log_parts(found: dict[str, DataSource]) -> None:
    """One line about what was found where folders were asked for their parts; nothing where files were named."""
    parts = {use: source for use, source in found.items() if SPLIT_MARK in source.path}
    if parts:
        logger.info("found %s", describe_parts(parts))


def describe_parts(parts: Mapping[str, DataSource]) -> str:
    """What was found, in one line: the format, each part with its number of images, the classes of the first.

    Args:
        parts: by what each is used for or called.
    """
    first = next(iter(parts.values()))
    counts = [f"{use} {source.path}: {source.num_images} images".strip() for use, source in parts.items()]
    names = list(map(str, first.classes.values()))
    shown = ", ".join(names[:_SHOWN_CLASSES]) + (", ..." if len(names) > _SHOWN_CLASSES else "")
    return f"data of the format {first.form}: {'; '.join(counts)}; {len(names)} classes: {shown}"


@each_read_once()
def configured_parts(cfg: DictConfig) -> dict[str, DataSource]:
    """The data sets that a config's loaders read, as "train" and "val".

    Raises:
        DatasetError: one is not there, or none of them is known by its files.
    """
    parts = {}
    for part, use in (("train", "train"), ("val", "test")):
        loader = cfg.dataloader.get(use)
        for name in dataset_names(loader)[:1]:
            parts |= {part: source} if (source := source_in_config(loader.dataset, name)) else {}
    if not parts:
        raise DatasetError("the config names no data set by files: nothing can be said of it")
    return parts


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
    if source is None:
        return class_names_of(names[0])
    options = _check_options(cfg_loader.dataset)
    if options.get("check") and options.get("classes_from"):
        source = read_source(options["classes_from"])
    unchecked_root = [source.root] if source.json_file and not options.get("check") and source.root else []
    return unchecked_root + list(source.classes.values())  # a root category has the lowest id mostly, 0


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
    return _target(cfg_dataset) in (get_detection_dataset_dicts, coco_dataset_dicts)


def _target(cfg: DictConfig) -> Any:
    """What a config calls, given as such or by a dotted name."""
    target = cfg.get("_target_")
    return locate(target) if isinstance(target, str) else target
