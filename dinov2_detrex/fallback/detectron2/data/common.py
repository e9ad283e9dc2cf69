"""How records get from a list to the model: shared serialised storage, the mapper, batches of like shape."""

import copy
import logging
import pickle
import random
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch
from torch.utils import data as torchdata

logger = logging.getLogger(__name__)


class _SerializedList:
    """Pickled items in one byte tensor, which worker processes share instead of copying.

    Python objects would be copied page by page as soon as a worker counts references on them; tensor storage is
    shared by forked workers, and moved to shared memory for spawned ones.
    """

    def __init__(self, items: Iterable):
        buffers = [np.frombuffer(pickle.dumps(item, protocol=-1), dtype=np.uint8) for item in items]
        ends = np.cumsum([len(buffer) for buffer in buffers], dtype=np.int64)
        self._ends = torch.from_numpy(ends)
        self._bytes = torch.from_numpy(np.concatenate(buffers) if buffers else np.zeros(0, np.uint8))
        logger.info("%d records serialised into %.1f MiB", len(buffers), self._bytes.numel() / 2**20)

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: int):
        if not -len(self) <= index < len(self):
            raise IndexError(f"index {index} is out of range for {len(self)} records")
        index %= len(self)
        start = self._ends[index - 1].item() if index else 0
        return pickle.loads(self._bytes[start : self._ends[index].item()].numpy().data)


class DatasetFromList(torchdata.Dataset):
    """A list as a data set that hands out copies.

    Args:
        lst: the records.
        copy: without `serialize`, hand out deep copies instead of the objects themselves.
        serialize: keep the records as bytes in shared memory instead of as Python objects.
    """

    def __init__(self, lst: list, copy: bool = True, serialize: bool = True):
        self._copy = copy and not serialize
        self._lst = _SerializedList(lst) if serialize else lst

    def __len__(self) -> int:
        return len(self._lst)

    def __getitem__(self, index: int):
        return copy.deepcopy(self._lst[index]) if self._copy else self._lst[index]


class MapDataset(torchdata.Dataset):
    """A map-style data set seen through a function; where that returns None, a random other item takes its place.

    An iterable data set gives a `MappedIterableDataset`, which leaves such items out.
    """

    def __new__(cls, dataset, map_func: Callable):
        if isinstance(dataset, torchdata.IterableDataset):
            return MappedIterableDataset(dataset, map_func)
        return super().__new__(cls)

    def __init__(self, dataset, map_func: Callable):
        self._dataset = dataset
        self._map_func = map_func
        self._rng = random.Random(42)

    def __getnewargs__(self):
        return self._dataset, self._map_func

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int):
        """The mapped item; RuntimeError if the function rejects every item there is."""
        rejected: set[int] = set()
        current = int(index)
        while True:
            item = self._map_func(self._dataset[current])
            if item is not None:
                return item
            rejected.add(current)
            if len(rejected) >= 3:
                logger.warning("the mapper returned None for item %d and %d others", index, len(rejected) - 1)
            current = self._another(rejected)

    def _another(self, rejected: set[int]) -> int:
        left = [index for index in range(len(self)) if index not in rejected]
        if not left:
            raise RuntimeError(f"the mapper rejected every one of the {len(self)} items of the data set")
        return self._rng.choice(left)


class MappedIterableDataset(torchdata.IterableDataset):
    """An iterable data set seen through a function; items for which that returns None are left out."""

    def __init__(self, dataset: torchdata.IterableDataset, map_func: Callable):
        self._dataset = dataset
        self._map_func = map_func

    def __iter__(self) -> Iterator:
        for item in map(self._map_func, self._dataset):
            if item is not None:
                yield item


class AspectRatioGroupedDataset(torchdata.IterableDataset):
    """Batches of images that are all wide or all not, so that little is padded.

    Args:
        dataset: iterable of records with the original "width" and "height".
        batch_size: a batch is emitted when its group has so many. What is left in a group stays for the next iterator.
    """

    def __init__(self, dataset: Iterable[dict], batch_size: int):
        self.dataset = dataset
        self.batch_size = batch_size
        self._groups: tuple[list[dict], list[dict]] = ([], [])

    def __iter__(self) -> Iterator[list[dict]]:
        for record in self.dataset:
            group = self._groups[record["width"] > record["height"]]
            group.append(record)
            if len(group) == self.batch_size:
                batch = group[:]
                group.clear()
                yield batch
