"""Which records a process takes, in which order: endless in training, each one once in evaluation."""

import itertools
import math
from collections.abc import Iterator, Sequence

import torch
from detectron2.utils import comm
from torch.utils.data.sampler import Sampler


class _EndlessSampler(Sampler):
    """Epoch after epoch of indices; process r of W takes every W-th one, from the r-th on.

    A subclass says in `_epoch` what an epoch is. All epochs draw from one generator, seeded once.

    Args:
        shuffle: permute each epoch.
        seed: the same for all processes; None draws one that they agree on.
    """

    def __init__(self, shuffle: bool, seed: int | None):
        self._shuffle = shuffle
        self._seed = comm.shared_random_seed() if seed is None else int(seed)
        self._rank = comm.get_rank()
        self._world_size = comm.get_world_size()

    def _epoch(self, generator: torch.Generator) -> torch.Tensor:
        raise NotImplementedError

    def _infinite_indices(self) -> Iterator[int]:
        generator = torch.Generator()
        generator.manual_seed(self._seed)
        while True:
            indices = self._epoch(generator)
            if self._shuffle:
                indices = indices[torch.randperm(len(indices), generator=generator)]
            yield from indices.tolist()

    def __iter__(self) -> Iterator[int]:
        yield from itertools.islice(self._infinite_indices(), self._rank, None, self._world_size)


def _checked_size(size: int) -> int:
    if not isinstance(size, int):
        raise TypeError(f"a sampler needs the number of records as an int, got {type(size).__name__}")
    if size <= 0:
        raise ValueError(f"a sampler needs at least one record, got size={size}")
    return size


class TrainingSampler(_EndlessSampler):
    """Every record once per epoch, for ever.

    Args:
        size: number of records; TypeError if not an int, ValueError if not positive.
        shuffle, seed: see `_EndlessSampler`.
    """

    def __init__(self, size: int, shuffle: bool = True, seed: int | None = None):
        self._size = _checked_size(size)
        super().__init__(shuffle, seed)

    def _epoch(self, generator: torch.Generator) -> torch.Tensor:
        return torch.arange(self._size)


class RandomSubsetTrainingSampler(_EndlessSampler):
    """Every record of a fixed random subset once per epoch, for ever.

    Args:
        size: number of records.
        subset_ratio: share of them that is used, in (0, 1].
        shuffle, seed_shuffle: see `_EndlessSampler`.
        seed_subset: which subset; None draws one that the processes agree on.
    """

    def __init__(
        self,
        size: int,
        subset_ratio: float,
        shuffle: bool = True,
        seed_shuffle: int | None = None,
        seed_subset: int | None = None,
    ):
        size = _checked_size(size)
        assert 0 < subset_ratio <= 1, f"subset_ratio={subset_ratio} is not in (0, 1]"
        generator = torch.Generator()
        generator.manual_seed(comm.shared_random_seed() if seed_subset is None else int(seed_subset))
        self._subset = torch.randperm(size, generator=generator)[: int(size * subset_ratio)]
        super().__init__(shuffle, seed_shuffle)

    def _epoch(self, generator: torch.Generator) -> torch.Tensor:
        return self._subset


class RepeatFactorTrainingSampler(_EndlessSampler):
    """Records with rare categories more often (LVIS: Gupta et al. 2019, appendix B.2).

    Args:
        repeat_factors: (N,) how often each record comes per epoch, on average: its integer part, and once more with
            the probability of its fraction.
        shuffle, seed: see `_EndlessSampler`.
    """

    def __init__(self, repeat_factors: torch.Tensor, *, shuffle: bool = True, seed: int | None = None):
        super().__init__(shuffle, seed)
        repeat_factors = torch.as_tensor(repeat_factors)
        self._whole = repeat_factors.floor()
        self._fraction = repeat_factors - self._whole

    def _epoch(self, generator: torch.Generator) -> torch.Tensor:
        once_more = torch.rand(len(self._fraction), generator=generator) < self._fraction
        return torch.arange(len(self._whole)).repeat_interleave((self._whole + once_more).long())

    @staticmethod
    def repeat_factors_from_category_frequency(
        dataset_dicts: Sequence[dict], repeat_thresh: float, sqrt: bool = True
    ) -> torch.Tensor:
        """(N,) float factors: of a record the largest of its categories' factors, 1 without objects.

        A category in a fraction f of the images has the factor max(1, sqrt(repeat_thresh / f)); without `sqrt`
        max(1, repeat_thresh / f).
        """
        categories = [{anno["category_id"] for anno in record["annotations"]} for record in dataset_dicts]
        counts: dict[int, int] = {}
        for category in itertools.chain.from_iterable(categories):
            counts[category] = counts.get(category, 0) + 1
        ratios = {category: repeat_thresh * len(categories) / count for category, count in counts.items()}
        factors = {category: max(1.0, math.sqrt(r) if sqrt else r) for category, r in ratios.items()}
        return torch.tensor([max((factors[c] for c in present), default=1.0) for present in categories])


class InferenceSampler(Sampler):
    """Every record exactly once over all processes: consecutive shares, the first size % W of them one longer."""

    def __init__(self, size: int):
        self._size = _checked_size(size)
        share, left = divmod(size, comm.get_world_size())
        rank = comm.get_rank()
        begin = rank * share + min(rank, left)
        self._local_indices = range(begin, begin + share + (rank < left))

    def __iter__(self) -> Iterator[int]:
        yield from self._local_indices

    def __len__(self) -> int:
        return len(self._local_indices)
