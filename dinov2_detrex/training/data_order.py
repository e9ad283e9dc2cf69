"""Which images make up iteration i, and how they are augmented: a pure function of (seed, i).

So a run that resumes at iteration i sees what an uninterrupted one sees, with any number of loader workers. The loader
is built from the parts of a config's `dataloader.train` (detectron2's `build_detection_train_loader`).

The endless stream of samples is cut into groups of one size (of one orientation, with aspect-ratio grouping, as
detectron2 does to pad less). Group n of the stream goes to iteration, process and part by
n = (iteration * processes + process) * parts + part.
"""

import inspect
import itertools
from collections.abc import Callable, Iterable, Iterator

import numpy as np
from detectron2.config import instantiate
from detectron2.data import DatasetFromList
from detectron2.data.build import build_detection_train_loader
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler

from dinov2_detrex.runtime.errors import UsageError
from dinov2_detrex.runtime.seeding import SAMPLE, derive_seed, seeded

Sample = tuple[int, int]  # (position in the endless stream, index of the image)
OWN_KEYWORDS = {"dataset", "mapper", "sampler", "total_batch_size", "single_gpu_batch_size", "aspect_ratio_grouping"}
OWN_KEYWORDS |= {"seed", "drop_last", "num_workers", "collate_fn"}
MAX_REJECTIONS = 1000  # samples in a row that the mapper may refuse


def shuffled_stream(num_images: int, seed: int) -> Iterator[Sample]:
    """Every image once an epoch, each epoch in its own order, without end."""
    for epoch in itertools.count():
        order = np.random.default_rng([seed, epoch]).permutation(num_images)
        yield from zip(itertools.count(epoch * num_images), order.tolist())


def grouped(samples: Iterable[Sample], size: int, buckets=None) -> Iterator[list[Sample]]:
    """Cut a stream into lists of `size`, each of one bucket, in the order in which they become full.

    Args:
        samples: the stream.
        size: samples in a group, at least 1.
        buckets: bucket number of each image by index; None puts all into one.
    """
    filling: dict[int, list[Sample]] = {}
    for sample in samples:
        group = filling.setdefault(0 if buckets is None else int(buckets[sample[1]]), [])
        group.append(sample)
        if len(group) == size:
            yield group.copy()
            group.clear()


class GroupSampler(Sampler):
    """The groups of one process from iteration `start_iter` on, as a torch batch sampler.

    Args:
        groups: makes the endless sequence of groups, from its beginning.
        start_iter: iterations whose groups are left out.
        per_iteration: groups that one iteration takes from the sequence, over all processes that share it.
        own: which of them belong to this process.
    """

    def __init__(self, groups: Callable[[], Iterator[list[Sample]]], start_iter: int, per_iteration: int, own: range):
        self.groups, self.start_iter, self.per_iteration, self.own = groups, start_iter, per_iteration, own

    def __iter__(self) -> Iterator[list[Sample]]:
        first = self.start_iter * self.per_iteration
        for number, group in enumerate(itertools.islice(self.groups(), first, None), first):
            if number % self.per_iteration in self.own:
                yield group


class SeededSamples(Dataset):
    """Maps (position, index) to a model input; the mapper's randomness depends on (seed, position) alone.

    Args:
        records: the data set, by index.
        mapper: record -> model input or None, which asks for another image; None leaves records as they are.
        seed: the run's seed.
    """

    def __init__(self, records, mapper: Callable | None, seed: int):
        self.records, self.mapper, self.seed = records, mapper or (lambda record: record), seed

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, sample: Sample) -> dict:
        position, index = sample
        with seeded(derive_seed(SAMPLE, self.seed, position)):
            for _ in range(MAX_REJECTIONS):
                mapped = self.mapper(self.records[index])
                if mapped is not None:
                    return mapped
                index = np.random.randint(len(self.records))
        raise RuntimeError(f"the mapper rejected {MAX_REJECTIONS} images in a row (it returned None for each)")


def _as_list(batch: list) -> list:
    return batch


def build_train_loader(
    cfg, *, seed: int, start_iter: int = 0, rank: int = 0, num_processes: int = 1, parts: int = 1
) -> Iterable[list[dict]]:
    """An endless loader of one process; each item is one part (1 / `parts` of the images) of an iteration.

    Args:
        cfg: the config's `dataloader.train`, a LazyCall of `build_detection_train_loader`. Any other callable, and
            iterable data sets, are instantiated as they are; their order is their own, and not resumed.
        seed: the run's seed.
        start_iter: the iteration whose images come first.
        parts: see `train.accumulate.steps`.

    Raises:
        UsageError: the batch cannot be divided by `num_processes` x `parts`.
    """
    if not is_standard_loader(cfg):
        return instantiate(cfg)
    with seeded(derive_seed(SAMPLE, seed)):  # a sampler of the config that draws its seed draws the same one again
        dataset, mapper, sampler = (instantiate(cfg.get(name)) for name in ("dataset", "mapper", "sampler"))
    if isinstance(dataset, IterableDataset):
        return instantiate(cfg)
    size = group_size(cfg, num_processes, parts)
    buckets = orientations(dataset) if cfg.get("aspect_ratio_grouping", True) else None
    per_iteration, own = num_processes * parts, range(rank * parts, (rank + 1) * parts)
    if sampler is not None:  # detectron2's samplers already deal out to the processes
        per_iteration, own = parts, range(parts)

    num_images = len(dataset)  # `groups` must not hold on to the list itself, which workers would copy bit by bit

    def groups() -> Iterator[list[Sample]]:
        stream = shuffled_stream(num_images, seed) if sampler is None else _config_stream(sampler, rank)
        return grouped(stream, size, buckets)

    records = DatasetFromList(dataset, copy=False) if isinstance(dataset, list) else dataset  # as shared bytes
    return DataLoader(
        SeededSamples(records, mapper, seed),
        batch_sampler=GroupSampler(groups, start_iter, per_iteration, own),
        num_workers=cfg.get("num_workers", 0),
        collate_fn=instantiate(cfg.get("collate_fn")) or _as_list,
        **_loader_keywords(cfg),
    )


def is_standard_loader(cfg) -> bool:
    """True for a LazyCall of detectron2's `build_detection_train_loader`, given as the function or by its name."""
    target = cfg.get("_target_")
    names = {"detectron2.data." + middle + "build_detection_train_loader" for middle in ("", "build.")}
    return target is build_detection_train_loader or target in names


def group_size(cfg, num_processes: int, parts: int) -> int:
    """Images in one part of one process's batch."""
    single, total = cfg.get("single_gpu_batch_size"), cfg.get("total_batch_size")
    total = single * num_processes if single else total
    if not total or total % (num_processes * parts):
        raise UsageError(
            f"dataloader.train.total_batch_size={total} cannot be divided among {num_processes} process(es) x "
            f"{parts} part(s) (train.accumulate.steps); choose a multiple of {num_processes * parts}"
        )
    return total // (num_processes * parts)


def orientations(dataset) -> np.ndarray:
    """1 for images that are wider than high, 0 for the others, by the records' own `width` and `height`."""
    return np.array([record["width"] > record["height"] for record in dataset], dtype=np.uint8)


def _config_stream(sampler, rank: int) -> Iterator[Sample]:
    """A config's own sampler, with positions that no other process has."""
    return ((position << 16 | rank, int(index)) for position, index in enumerate(sampler))


def _loader_keywords(cfg) -> dict:
    """What the config passes on to torch's DataLoader."""
    extra = {name: instantiate(cfg[name]) for name in cfg.keys() if name not in OWN_KEYWORDS | {"_target_"}}
    known = inspect.signature(DataLoader).parameters
    unknown = sorted(set(extra) - set(known))
    if unknown:
        raise UsageError(
            f"dataloader.train has no parameter {', '.join(unknown)}; torch's DataLoader takes none either"
        )
    if not cfg.get("num_workers", 0):
        extra.pop("prefetch_factor", None)
        extra.pop("persistent_workers", None)
    return extra
