"""From data set names and a mapper to loaders: `build_detection_train_loader`, `build_detection_test_loader`."""

import itertools
import logging
from collections.abc import Callable, Iterable, Sized
from typing import Any, cast

import numpy as np
import torch
from detectron2.utils.comm import get_world_size
from detectron2.utils.env import seed_all_rng
from tabulate import tabulate
from torch.utils import data as torchdata

from .catalog import DatasetCatalog, MetadataCatalog
from .common import AspectRatioGroupedDataset, DatasetFromList, MapDataset, MappedIterableDataset
from .detection_utils import check_metadata_consistency
from .samplers import InferenceSampler, TrainingSampler

logger = logging.getLogger(__name__)

__all__ = ["build_detection_test_loader", "build_detection_train_loader", "get_detection_dataset_dicts"]


def get_detection_dataset_dicts(
    names: str | list[str],
    filter_empty: bool = True,
    min_keypoints: int = 0,
    proposal_files: list[str] | None = None,
    check_consistency: bool = True,
) -> list[dict] | torchdata.Dataset:
    """Load registered data sets and join their records.

    Args:
        names: one or several.
        filter_empty: leave out images without an object that is not a crowd.
        min_keypoints, proposal_files: only their defaults.
        check_consistency: the data sets must have equal class names.

    Returns:
        the records; data sets that are torch `Dataset`s come as they are, several as a `ConcatDataset`.

    Raises:
        KeyError: a name is not registered.
        AssertionError: no names, a data set without images, or nothing left.
        ValueError: class names differ.
    """
    if min_keypoints or proposal_files:
        raise NotImplementedError("min_keypoints and proposal_files need the real detectron2")
    names = [names] if isinstance(names, str) else list(names)
    assert names, "expected the name of at least one data set"
    unknown = set(names) - set(DatasetCatalog)
    if unknown:
        logger.warning("data sets that are not registered: %s", ", ".join(sorted(unknown)))
    loaded: list[Any] = [DatasetCatalog.get(name) for name in names]
    if isinstance(loaded[0], torchdata.Dataset):
        return loaded[0] if len(loaded) == 1 else torchdata.ConcatDataset(loaded)
    for name, records in zip(names, loaded):
        assert len(records), f"data set {name!r} has no images"
    return _joined(names, list(itertools.chain.from_iterable(loaded)), filter_empty, check_consistency)


def _joined(names: list[str], records: list[dict], filter_empty: bool, check_consistency: bool) -> list[dict]:
    annotated = "annotations" in records[0]
    if annotated and filter_empty:
        records = _without_empty(records)
    if annotated and check_consistency and all(hasattr(MetadataCatalog.get(name), "thing_classes") for name in names):
        check_metadata_consistency("thing_classes", names)
        _log_instance_counts(records, MetadataCatalog.get(names[0]).thing_classes)
    assert records, f"no image with an object is left in {', '.join(names)}"
    return records


def _without_empty(records: list[dict]) -> list[dict]:
    left = [r for r in records if any(anno.get("iscrowd", 0) == 0 for anno in r["annotations"])]
    logger.info("removed %d images without objects, %d are left", len(records) - len(left), len(left))
    return left


def _log_instance_counts(records: list[dict], class_names: list[str]) -> None:
    """A table of objects per class, crowds not counted; AssertionError for a category id beyond the names."""
    annotations = itertools.chain.from_iterable(record["annotations"] for record in records)
    ids = np.array([anno["category_id"] for anno in annotations if not anno.get("iscrowd", 0)], dtype=int)
    if len(ids):
        assert ids.min() >= 0, f"category id {ids.min()} is negative"
        assert ids.max() < len(class_names), f"category id {ids.max()} is beyond the {len(class_names)} classes"
    counts = np.bincount(ids, minlength=len(class_names))
    rows = list(zip(class_names, counts.tolist()))
    width = min(3, max(1, len(rows)))
    lines = [sum(rows[i : i + width], ()) for i in range(0, len(rows), width)]
    table = tabulate(lines, headers=["category", "#instances"] * width, tablefmt="pipe", stralign="left")
    logger.info("%d objects of %d classes:\n%s", len(ids), len(class_names), table)


def build_detection_train_loader(
    dataset: list[dict] | torchdata.Dataset,
    *,
    mapper: Callable[[dict], dict | None] | None,
    sampler: torchdata.Sampler | None = None,
    total_batch_size: int | None = None,
    single_gpu_batch_size: int | None = None,
    aspect_ratio_grouping: bool = True,
    num_workers: int = 0,
    collate_fn: Callable[[list], Any] | None = None,
    drop_last: bool = True,
    prefetch_factor: int = 2,
    persistent_workers: bool = False,
    pin_memory: bool = False,
    seed: int | None = None,
    **kwargs,
) -> Iterable[list[dict]]:
    """Endless batches of mapped records.

    Args:
        dataset: records (stored as bytes that workers share), or a map-style or iterable torch data set.
        mapper: applied to each record in the workers; where it returns None another record takes the place. None
            leaves the records as they are.
        sampler: order of the records; default `TrainingSampler`. None for an iterable data set.
        total_batch_size: over all processes, which must divide it.
        single_gpu_batch_size: instead: the batch of this process.
        aspect_ratio_grouping: batches of images that are all wider than high, or all not.
        collate_fn: from a list of records to a batch; default the list itself.
        prefetch_factor: batches (records, with grouping) that a worker prepares ahead.
        seed: of the workers' random numbers.
        The rest goes to `torch.utils.data.DataLoader`. The order does not depend on the number of workers.

    Raises:
        AssertionError: no `Sampler`, or batch size and processes do not fit.
        ValueError: both batch sizes are given, or none.
    """
    batch_size = _batch_size_per_process(total_batch_size, single_gpu_batch_size)
    dataset = DatasetFromList(dataset, copy=False) if isinstance(dataset, list) else dataset
    dataset = dataset if mapper is None else MapDataset(dataset, mapper)
    if isinstance(dataset, torchdata.IterableDataset):
        assert sampler is None, "an iterable data set has its own order: sampler must be None"
    else:
        sampler = TrainingSampler(len(cast(Sized, dataset))) if sampler is None else sampler
        assert isinstance(sampler, torchdata.Sampler), f"expected a torch Sampler, got {type(sampler).__name__}"
    if num_workers > 0:
        kwargs.update(prefetch_factor=prefetch_factor, persistent_workers=persistent_workers)
    if seed is not None:
        kwargs["generator"] = torch.Generator().manual_seed(seed)
    kwargs.update(sampler=sampler, num_workers=num_workers, pin_memory=pin_memory, worker_init_fn=seed_worker)
    if not aspect_ratio_grouping:
        collate_fn = collate_fn or as_it_is
        return torchdata.DataLoader(dataset, batch_size, drop_last=drop_last, collate_fn=collate_fn, **kwargs)
    assert drop_last, "with aspect_ratio_grouping unfinished batches are always dropped: drop_last must be True"
    items = torchdata.DataLoader(dataset, batch_size=None, collate_fn=as_it_is, **kwargs)
    grouped = AspectRatioGroupedDataset(items, batch_size)
    return grouped if collate_fn is None else MappedIterableDataset(grouped, collate_fn)


def _batch_size_per_process(total: int | None, single: int | None) -> int:
    if (total is None) == (single is None):
        raise ValueError(f"give either total_batch_size or single_gpu_batch_size, got {total} and {single}")
    if single is not None:
        return single
    assert total is not None  # one of the two is given
    world = get_world_size()
    assert total > 0 and total % world == 0, f"total_batch_size={total} must be a multiple of the {world} processes"
    return total // world


def build_detection_test_loader(
    dataset: list[dict] | torchdata.Dataset,
    *,
    mapper: Callable[[dict], dict],
    sampler: torchdata.Sampler | None = None,
    batch_size: int = 1,
    num_workers: int = 0,
    collate_fn: Callable[[list], Any] | None = None,
) -> torchdata.DataLoader:
    """Every record once over all processes, in order; the last batch may be short.

    Args:
        dataset, mapper, collate_fn: see `build_detection_train_loader`.
        sampler: default `InferenceSampler`; None for an iterable data set.
        batch_size: of this process.
    """
    dataset = DatasetFromList(dataset, copy=False) if isinstance(dataset, list) else dataset
    dataset = dataset if mapper is None else MapDataset(dataset, mapper)
    if isinstance(dataset, torchdata.IterableDataset):
        assert sampler is None, "an iterable data set has its own order: sampler must be None"
    elif sampler is None:
        sampler = InferenceSampler(len(cast(Sized, dataset)))
    return torchdata.DataLoader(
        dataset, batch_size, sampler=sampler, num_workers=num_workers, collate_fn=collate_fn or as_it_is
    )


def as_it_is(batch: Any) -> Any:
    """No collation: the records stay a list, since their images differ in size."""
    return batch


def seed_worker(worker_id: int) -> None:
    """Seed python, numpy and torch in a worker process, each worker differently."""
    seed_all_rng(torch.initial_seed() % 2**31 + worker_id)
