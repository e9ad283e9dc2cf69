"""Which records a sampler hands to which process, and in which order."""

import itertools
import math

import pytest
import torch
from detectron2.data.samplers import (
    InferenceSampler,
    RandomSubsetTrainingSampler,
    RepeatFactorTrainingSampler,
    TrainingSampler,
)


def take(sampler, count):
    return list(itertools.islice(iter(sampler), count))


@pytest.fixture
def as_process(monkeypatch):
    """as_process(rank, world, make): what `make()` gives in that process."""

    def make_there(rank, world, make):
        from detectron2.utils import comm

        with monkeypatch.context() as patch:
            patch.setattr(comm, "get_rank", lambda: rank)
            patch.setattr(comm, "get_world_size", lambda: world)
            return make()

    return make_there


def test_training_goes_through_permutations_of_one_seeded_generator():
    generator = torch.Generator().manual_seed(5)
    expected = torch.cat([torch.randperm(7, generator=generator) for _ in range(3)]).tolist()
    assert take(TrainingSampler(7, seed=5), 21) == expected
    assert expected[:7] != expected[7:14]


def test_training_without_shuffling_counts_round():
    assert take(TrainingSampler(3, shuffle=False), 7) == [0, 1, 2, 0, 1, 2, 0]


def test_training_restarts_at_each_iteration_and_varies_with_the_seed():
    sampler = TrainingSampler(20, seed=1)
    assert take(sampler, 40) == take(sampler, 40)
    assert take(sampler, 40) != take(TrainingSampler(20, seed=2), 40)


@pytest.mark.parametrize("world", [2, 3])
def test_processes_deal_the_records_out_among_them(as_process, world):
    alone = take(TrainingSampler(7, seed=3), 21)
    dealt = [as_process(rank, world, lambda: TrainingSampler(7, seed=3)) for rank in range(world)]
    shares = [take(sampler, 21 // world + 1) for sampler in dealt]
    assert [shares[i % world][i // world] for i in range(21)] == alone


def test_sizes_are_checked():
    with pytest.raises(TypeError):
        TrainingSampler(3.0)
    with pytest.raises(ValueError):
        TrainingSampler(0)
    with pytest.raises(TypeError):
        len(TrainingSampler(3))


@pytest.mark.parametrize("size, world", [(10, 1), (10, 3), (2, 3), (11, 4)])
def test_inference_sees_every_record_once_and_in_consecutive_shares(as_process, size, world):
    samplers = [as_process(rank, world, lambda: InferenceSampler(size)) for rank in range(world)]
    shares = [list(sampler) for sampler in samplers]
    assert list(itertools.chain.from_iterable(shares)) == list(range(size))
    expected = [size // world + (rank < size % world) for rank in range(world)]
    assert [len(share) for share in shares] == [len(sampler) for sampler in samplers] == expected


def records(*categories):
    return [{"annotations": [{"category_id": c} for c in image]} for image in categories]


def test_repeat_factors_follow_the_rarest_category():
    dicts = records([0], [0, 0], [0, 1], [])
    factors = RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(dicts, 0.5)
    rare = math.sqrt(0.5 / 0.25)  # category 1 is in one image of four, category 0 in three
    torch.testing.assert_close(factors, torch.tensor([1.0, 1.0, rare, 1.0]))
    linear = RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(dicts, 0.5, sqrt=False)
    torch.testing.assert_close(linear, torch.tensor([1.0, 1.0, 2.0, 1.0]))


def test_records_are_repeated_by_their_factor():
    whole = take(RepeatFactorTrainingSampler(torch.tensor([1.0, 3.0, 2.0]), seed=0), 600)
    assert [whole[i : i + 6].count(1) for i in range(0, 600, 6)] == [3] * 100
    fractions = take(RepeatFactorTrainingSampler(torch.tensor([1.0, 1.5]), shuffle=False, seed=0), 2500)
    epochs = fractions.count(0)
    assert 1.4 < fractions.count(1) / epochs < 1.6


def test_a_random_subset_is_fixed_and_passes_as_epochs():
    sampler = RandomSubsetTrainingSampler(20, 0.3, seed_shuffle=1, seed_subset=2)
    drawn = take(sampler, 18)
    assert len(set(drawn)) == 6
    assert all(sorted(drawn[i : i + 6]) == sorted(set(drawn)) for i in (0, 6, 12))
    assert set(take(RandomSubsetTrainingSampler(20, 0.3, seed_shuffle=9, seed_subset=2), 6)) == set(drawn)
