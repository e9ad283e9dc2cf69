"""Which images make up iteration i, and how they are augmented: a pure function of (seed, i).

So a run that resumes at iteration i sees what an uninterrupted one sees, with any number of loader workers. A config's
`dataloader.train` names `TrainLoader`; `build_train_loader` makes one process's batches from it.

The endless stream of samples is cut into groups of one size (of one orientation, with aspect-ratio grouping, as
detectron2 does to pad less). Group n of the stream goes to iteration, process and micro-batch by
n = (iteration * processes + process) * micro_batches + micro_batch.
"""

import inspect
import itertools
import logging
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

import numpy as np
from detectron2.config import instantiate
from detectron2.data import DatasetFromList
from detectron2.data.build import build_detection_train_loader
from detectron2.data.samplers import RepeatFactorTrainingSampler
from detectron2.utils import comm
from omegaconf import DictConfig
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler

from dinov2_detrex.runtime.errors import UsageError
from dinov2_detrex.runtime.seeding import SAMPLE, derive_seed, seeded
from dinov2_detrex.runtime.values import require_share

Sample = tuple[int, int]  # (position in the endless stream, index of the image)
Record = dict[str, Any]  # a data set dict of detectron2, or the model input that a mapper makes of it
Batch = list[Record]
Mapper = Callable[[Record], Record | None]
FOR_WORKERS = {"prefetch_factor", "persistent_workers"}  # which torch refuses where there are none
RANK_BITS = 16  # of a position, where a config's sampler deals out to the processes
MAX_REJECTIONS = 1000  # samples in a row that the mapper may refuse

logger = logging.getLogger(__name__)


class Records(Protocol):
    """Records by index: a list, or a map-style torch data set."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Record: ...


def shuffled_stream(num_images: int, seed: int) -> Iterator[Sample]:
    """Every image once an epoch, each epoch in its own order, without end."""
    for epoch in itertools.count():
        order = np.random.default_rng([seed, epoch]).permutation(num_images)
        yield from zip(itertools.count(epoch * num_images), order.tolist())


def repeated_stream(factors: np.ndarray, seed: int) -> Iterator[Sample]:
    """Images by their repeat factors, each epoch in its own order, without end (Gupta et al. 2019, LVIS, appendix B.2).

    Args:
        factors: (N,) how often each image comes in an epoch: the whole part, and once more with the probability of the
            rest, drawn anew for every epoch.
        seed: the run's.
    """
    whole, position = np.floor(factors).astype(int), 0
    for epoch in itertools.count():
        rng = np.random.default_rng([seed, epoch])
        times = whole + (rng.random(len(factors)) < factors - whole)
        order = rng.permutation(np.repeat(np.arange(len(factors)), times))
        yield from zip(itertools.count(position), order.tolist())
        position += len(order)


def repeat_factors(records: Records, threshold: float, power: float = 0.5) -> np.ndarray:
    """(N,) repeat factors of at least 1, as detectron2 counts them: of an image, that of its rarest class, sqrt(t / f)
    for a class in a fraction f of the images below t; with another power (t / f)^power.

    Raises:
        UsageError: the records have no annotations.
    """
    annotated = [{"annotations": record.get("annotations")} for record in map(records.__getitem__, range(len(records)))]
    if any(record["annotations"] is None for record in annotated):
        raise UsageError(f"dataloader.train.repeat_thresh={threshold}: the records have no annotations to count")
    factors = RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(annotated, threshold)
    factors = np.asarray(factors, dtype=float) ** (2 * power)
    logger.info(
        "repeat-factor sampling: %d of %d images come more than once in an epoch, up to %.3g times, which makes an "
        "epoch of about %d images",
        *((factors > 1).sum(), len(factors), factors.max(), round(factors.sum())),
    )
    return factors


def grouped(samples: Iterable[Sample], size: int, buckets: np.ndarray | None = None) -> Iterator[list[Sample]]:
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


class GroupSampler(Sampler[list[Sample]]):
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


class SeededSamples(Dataset[Record]):
    """Maps (position, index) to a model input; the mapper's randomness depends on (seed, position) alone.

    Args:
        records: the data set, by index.
        mapper: record -> model input or None, which asks for another image; None leaves records as they are. One that
            says `takes_records` is called by `map_sample` with all records, the index and the passes over the data.
        seed: the run's seed.
        rank_bits: of a position that tell processes apart, each of which counts its own.
        num_processes: that do.
    """

    def __init__(self, records: Records, mapper: Mapper | None, seed: int, rank_bits: int = 0, num_processes: int = 1):
        self.records, self.mapper, self.seed = records, mapper, seed
        self.rank_bits, self.num_processes = rank_bits, num_processes

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, sample: Sample) -> Record:
        position, index = sample
        with seeded(derive_seed(SAMPLE, self.seed, position)):
            for _ in range(MAX_REJECTIONS):
                mapped = self._mapped(index, position)
                if mapped is not None:
                    return mapped
                index = np.random.randint(len(self.records))
        raise RuntimeError(f"the mapper rejected {MAX_REJECTIONS} images in a row (it returned None for each)")

    def _mapped(self, index: int, position: int) -> Record | None:
        mapper: Any = self.mapper
        if getattr(mapper, "takes_records", False):
            epoch = (position >> self.rank_bits) * self.num_processes / len(self.records)
            return mapper.map_sample(self.records, index, epoch)
        record = self.records[index]
        return record if mapper is None else mapper(record)


class TrainLoader:
    """Training data as a config describes them: what a batch is made of, without an order yet.

    `batches` gives the order of a run. Iterating the loader itself, as a script for detectron2's loader does, gives
    this process's share of an order from `seed`.

    Args:
        dataset: records (stored as bytes that workers share), or a map-style torch data set. An iterable one has its
            own order, which is not resumed.
        mapper: applied to each record in the workers; where it returns None another record takes the place. None
            leaves the records as they are.
        sampler: indices of records, as detectron2's samplers deal them out to the processes; None shows every image
            once an epoch, each epoch in its own order.
        total_batch_size: images of an iteration, over all processes and micro-batches.
        single_gpu_batch_size: instead: of one process.
        aspect_ratio_grouping: batches of images that are all wider than high, or all not; needs the records' `width`
            and `height`.
        num_workers: processes that read and augment; 0 does it in this one.
        collate_fn: from a list of model inputs to a batch; None leaves the list.
        seed: of the order where none is asked for; None draws one.
        repeat_thresh: shows images with rare classes more often, in place of a sampler: a class in less than this
            fraction of the images counts as rare, see `repeat_factors`. 0 or None for none.
        repeat_power: how often: 0.5 is LVIS's square root; 1 balances the classes, an image of a rare one comes as
            often as if its class were in that fraction of the images.
        drop_last: of no effect, since the batches never end; detectron2's loader takes it.
        torch_options: go to `torch.utils.data.DataLoader`.

    Raises:
        UsageError: a keyword is unknown to both; or `repeat_thresh` is no fraction, or goes with a sampler, or with
            records that have no index or no annotations.
    """

    def __init__(
        self,
        dataset: Records | IterableDataset[Record],
        *,
        mapper: Mapper | None = None,
        sampler: Sampler[int] | None = None,
        total_batch_size: int | None = None,
        single_gpu_batch_size: int | None = None,
        aspect_ratio_grouping: bool = True,
        num_workers: int = 0,
        collate_fn: Callable[[Batch], Any] | None = None,
        seed: int | None = None,
        drop_last: bool = True,
        repeat_thresh: float | None = None,
        repeat_power: float = 0.5,
        **torch_options: Any,
    ):
        unknown = sorted(set(torch_options) - set(inspect.signature(DataLoader).parameters))
        if unknown:
            raise UsageError(
                f"dataloader.train has no parameter {', '.join(unknown)}; torch's DataLoader takes none either"
            )
        if not num_workers:
            torch_options = {name: torch_options[name] for name in torch_options.keys() - FOR_WORKERS}
        self.mapper, self.sampler, self.seed = mapper, sampler, seed
        self.total_batch_size, self.single_gpu_batch_size = total_batch_size, single_gpu_batch_size
        self.aspect_ratio_grouping = aspect_ratio_grouping
        self.torch_options = torch_options | {"num_workers": num_workers, "collate_fn": collate_fn or _as_list}
        has_index = not isinstance(dataset, IterableDataset)
        if repeat_thresh and (sampler is not None or not has_index):
            other = "a sampler" if sampler is not None else "an iterable data set"
            raise UsageError(f"dataloader.train.repeat_thresh={repeat_thresh} and {other} both say the order; take one")
        require_share("TrainLoader", repeat_thresh=repeat_thresh or 0.0, repeat_power=repeat_power)
        self._factors = repeat_factors(dataset, repeat_thresh, repeat_power) if repeat_thresh and has_index else None
        self._buckets = orientations(dataset) if aspect_ratio_grouping and has_index else None
        self.records = DatasetFromList(dataset, copy=False) if isinstance(dataset, list) else dataset

    def __iter__(self) -> Iterator[Batch]:
        seed = comm.shared_random_seed() if self.seed is None else self.seed
        return iter(self.batches(seed, rank=comm.get_rank(), num_processes=comm.get_world_size()))

    def batches(
        self, seed: int, start_iter: int = 0, rank: int = 0, num_processes: int = 1, micro_batches: int = 1
    ) -> Iterable[Batch]:
        """See `build_train_loader`."""
        size = self._group_size(num_processes, micro_batches)
        if isinstance(self.records, IterableDataset):
            return _in_their_own_order(self._of_iterable(self.records), "an iterable data set", micro_batches)
        per_iteration, own = num_processes * micro_batches, range(rank * micro_batches, (rank + 1) * micro_batches)
        if self.sampler is not None:  # detectron2's samplers already deal out to the processes
            per_iteration, own = micro_batches, range(micro_batches)

        shared = (RANK_BITS, num_processes) if self.sampler is not None else (0, 1)
        samples = SeededSamples(self.records, self.mapper, seed, *shared)
        sampler, buckets, factors, num_images = self.sampler, self._buckets, self._factors, len(self.records)

        def groups() -> Iterator[list[Sample]]:
            if sampler is not None:
                return grouped(_sampler_stream(sampler, rank), size, buckets)
            stream = shuffled_stream(num_images, seed) if factors is None else repeated_stream(factors, seed)
            return grouped(stream, size, buckets)

        order = GroupSampler(groups, start_iter, per_iteration, own)
        return DataLoader(samples, batch_sampler=order, **self.torch_options)

    def _group_size(self, num_processes: int, micro_batches: int) -> int:
        """Images in one micro-batch of one process."""
        single, total = self.single_gpu_batch_size, self.total_batch_size
        total = single * num_processes if single else total
        if not total or total % (num_processes * micro_batches):
            raise UsageError(
                f"dataloader.train.total_batch_size={total} cannot be divided among {num_processes} process(es) x "
                f"{micro_batches} micro-batch(es) (train.accumulate.steps); "
                f"choose a multiple of {num_processes * micro_batches}"
            )
        return total // (num_processes * micro_batches)

    def _of_iterable(self, records: IterableDataset[Record]) -> Iterable[Batch]:
        """detectron2's loader, which shares an iterable data set out to processes and workers."""
        sizes = {"total_batch_size": self.total_batch_size, "single_gpu_batch_size": self.single_gpu_batch_size}
        return build_detection_train_loader(
            dataset=records,
            mapper=self.mapper,
            sampler=self.sampler,
            aspect_ratio_grouping=self.aspect_ratio_grouping,
            **{name: size for name, size in sizes.items() if size},
            **self.torch_options,
        )


def build_train_loader(
    cfg: DictConfig, *, seed: int, start_iter: int = 0, rank: int = 0, num_processes: int = 1, micro_batches: int = 1
) -> Iterable[Batch]:
    """An endless loader of one process; each item is one micro-batch, 1 / `micro_batches` of an iteration's images.

    Args:
        cfg: the config's `dataloader.train`, a LazyCall of `TrainLoader`. Any other callable is taken as it is: its
            items are whole batches, in its own order, which is not resumed; a warning says so.
        seed: the run's seed.
        start_iter: the iteration whose images come first.
        rank: of this process, below `num_processes`.
        micro_batches: see `train.accumulate.steps`.

    Raises:
        UsageError: the batch cannot be divided by `num_processes` x `micro_batches`, or not divided at all.
    """
    with seeded(derive_seed(SAMPLE, seed)):  # a sampler of the config that draws its seed draws the same one again
        loader = instantiate(cfg)
    if isinstance(loader, TrainLoader):
        if loader.mapper is None and not isinstance(loader.records, IterableDataset):
            require_read(loader.records, "dataloader.train.mapper")
        return loader.batches(seed, start_iter, rank, num_processes, micro_batches)
    target = cfg.get("_target_")
    return _in_their_own_order(loader, getattr(target, "__qualname__", str(target)), micro_batches)


def require_read(records: Records, key: str) -> None:
    """Refuse records that only name their image files, which nothing reads.

    Args:
        records: as they reach the model.
        key: of the mapper that is missing.

    Raises:
        UsageError: the first record has a `file_name` and no `image`.
    """
    first = records[0] if len(records) else {}
    if isinstance(first, dict) and "file_name" in first and "image" not in first:
        raise UsageError(f"{key}=null leaves the images unread, and the data set gives their file names alone")


def name_own_loader(cfg: DictConfig) -> None:
    """Make a `dataloader.train` that names detectron2's `build_detection_train_loader` name `TrainLoader`, in place.

    It takes the same arguments. Configs written for detectron2 or detrex, and `config.yaml` of runs that were started
    before the recipes named `TrainLoader`, so have an order that is resumed.
    """
    names = {f"detectron2.data.{module}build_detection_train_loader" for module in ("", "build.")}
    target = cfg.get("_target_")
    if target is build_detection_train_loader or target in names:
        cfg["_target_"] = "dinov2_detrex.data.TrainLoader"


def _in_their_own_order(batches: Iterable[Batch], what: str, micro_batches: int) -> Iterable[Batch]:
    """The batches as they are, where nothing divides or orders them."""
    if micro_batches > 1:
        raise UsageError(
            f"train.accumulate.steps={micro_batches}: dataloader.train is {what}, whose batches cannot be divided; "
            "leave it at 1 with a smaller batch, or use dinov2_detrex.data.TrainLoader with data that have an index"
        )
    logger.warning("dataloader.train is %s: its order is its own, and a resumed run does not continue it", what)
    return batches


def orientations(records: Records) -> np.ndarray:
    """1 for images that are wider than high, 0 for the others, by the records' own `width` and `height`: (N,)."""
    wide = (record["width"] > record["height"] for record in map(records.__getitem__, range(len(records))))
    return np.fromiter(wide, dtype=np.uint8, count=len(records))


def _sampler_stream(sampler: Iterable[int], rank: int) -> Iterator[Sample]:
    """A config's own sampler, with positions that no other process has."""
    return ((position << RANK_BITS | rank, int(index)) for position, index in enumerate(sampler))


def _as_list(batch: Batch) -> Batch:
    return batch
