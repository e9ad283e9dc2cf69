"""The data order: a pure function of seed and iteration, whatever the workers, the start and the processes."""

import functools
import gc
import itertools
import random
import weakref
from collections import Counter

import numpy as np
import pytest
import torch
from detectron2.config import LazyCall as L
from detectron2.config import instantiate
from detectron2.data import build_detection_train_loader
from detectron2.data.samplers import RepeatFactorTrainingSampler, TrainingSampler
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import IterableDataset

from dinov2_detrex.data import TrainLoader
from dinov2_detrex.data.loader import (
    GroupSampler,
    build_train_loader,
    grouped,
    name_own_loader,
    repeat_factors,
    repeated_stream,
    shuffled_stream,
)
from dinov2_detrex.runtime.errors import UsageError


def records(count=13):
    """Every third image is upright."""
    heights = [30 if i % 3 == 0 else 5 for i in range(count)]
    return [{"file_name": f"{i}.png", "width": 10, "height": h, "image_id": i} for i, h in enumerate(heights)]


def noisy(record):
    """A mapper that draws from all three generators."""
    return record | {"noise": (random.random(), np.random.rand(), torch.rand(()).item())}


def loader_config(**changes):
    return L(TrainLoader)(
        **({"dataset": L(records)(count=13), "mapper": noisy, "total_batch_size": 4, "num_workers": 0} | changes)
    )


def take(loader, count):
    return [[(r["image_id"], r["noise"]) for r in batch] for batch in itertools.islice(loader, count)]


@pytest.mark.parametrize("grouping", [True, False])
@pytest.mark.parametrize("start", [1, 5, 11])
def test_a_loader_started_later_continues_exactly(grouping, start):
    cfg = loader_config(aspect_ratio_grouping=grouping)
    whole = take(build_train_loader(cfg, seed=3), 14)
    assert take(build_train_loader(cfg, seed=3, start_iter=start), 14 - start) == whole[start:]


def test_the_number_of_workers_changes_nothing():
    alone = take(build_train_loader(loader_config(), seed=3), 8)
    with_workers = take(build_train_loader(loader_config(num_workers=2, prefetch_factor=4), seed=3), 8)
    assert alone == with_workers


def test_another_seed_gives_another_order_and_other_noise():
    first, second = (take(build_train_loader(loader_config(), seed=seed), 5) for seed in (3, 4))
    assert first != second


def test_an_image_is_augmented_differently_each_time_it_is_shown():
    noise = Counter(n for batch in take(build_train_loader(loader_config(), seed=3), 20) for _, n in batch)
    assert max(noise.values()) == 1 and len(noise) == 80


def test_the_loader_leaves_the_generators_of_the_process_alone():
    torch.manual_seed(0), np.random.seed(0), random.seed(0)
    expected = torch.rand(3).tolist(), np.random.rand(), random.random()
    torch.manual_seed(0), np.random.seed(0), random.seed(0)
    loader = iter(build_train_loader(loader_config(), seed=3))
    seen_after_creation = torch.get_rng_state()
    next(loader)
    assert torch.equal(torch.get_rng_state(), seen_after_creation)
    assert (np.random.rand(), random.random()) == expected[1:]


@pytest.mark.parametrize("micro_batches", [1, 2])
def test_processes_and_micro_batches_share_out_the_batch_of_one_process(micro_batches):
    cfg = loader_config(aspect_ratio_grouping=False)
    whole = take(build_train_loader(cfg, seed=3), 6)
    options = {"seed": 3, "num_processes": 2, "micro_batches": micro_batches}
    shares = [take(build_train_loader(cfg, rank=rank, **options), 6 * micro_batches) for rank in range(2)]
    joint = []
    for i in range(0, 6 * micro_batches, micro_batches):
        joint.append([image for share in shares for batch in share[i : i + micro_batches] for image in batch])
    assert joint == whole


def test_with_grouping_a_batch_has_one_orientation_and_no_image_is_lost():
    loader = build_train_loader(loader_config(mapper=lambda record: record), seed=3)
    batches = list(itertools.islice(loader, 13))  # 4 epochs of 13 images
    assert all(len({r["width"] > r["height"] for r in batch}) == 1 for batch in batches)
    seen = Counter(r["image_id"] for batch in batches for r in batch)
    assert set(seen) == set(range(13)) and max(seen.values()) <= 5


@settings(max_examples=30)
@given(st.integers(1, 40), st.integers(1, 7), st.integers(0, 60), st.integers(0, 3), st.integers(1, 4))
def test_every_group_goes_to_one_process_and_a_late_start_skips_whole_iterations(images, size, start, rank, processes):
    rank %= processes
    buckets = np.arange(images) % 2

    def groups():
        return grouped(shuffled_stream(images, 5), size, buckets)

    own = list(itertools.islice(GroupSampler(groups, start, processes, range(rank, rank + 1)), 3))
    expected = list(itertools.islice(groups(), (start + 3) * processes))[start * processes :]
    assert own == expected[rank::processes]


def test_each_epoch_of_the_stream_shows_every_image_once_in_its_own_order():
    stream = list(itertools.islice(shuffled_stream(50, 1), 150))
    epochs = [[index for _, index in stream[i : i + 50]] for i in (0, 50, 100)]
    assert all(sorted(epoch) == list(range(50)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2] and [position for position, _ in stream] == list(range(150))


def test_a_sampler_of_the_config_is_used_and_resumed():
    cfg = loader_config(sampler=L(TrainingSampler)(size=13, shuffle=False), aspect_ratio_grouping=False)
    whole = take(build_train_loader(cfg, seed=3), 6)
    assert [image for batch in whole for image, _ in batch] == [i % 13 for i in range(24)]
    assert take(build_train_loader(cfg, seed=3, start_iter=2), 4) == whole[2:]


def test_a_shuffling_sampler_of_the_config_draws_the_same_seed_again():
    cfg = loader_config(sampler=L(TrainingSampler)(size=13))
    whole = take(build_train_loader(cfg, seed=3), 6)
    np.random.seed(99)
    assert take(build_train_loader(cfg, seed=3, start_iter=2), 4) == whole[2:]


def test_an_image_that_the_mapper_refuses_is_replaced_the_same_way_every_time():
    cfg = loader_config(mapper=lambda record: noisy(record) if record["image_id"] % 2 else None)
    whole = take(build_train_loader(cfg, seed=3), 4)
    assert all(image % 2 for batch in whole for image, _ in batch)
    assert take(build_train_loader(cfg, seed=3, start_iter=2), 2) == whole[2:]


class WatchedRecords(list):
    """A list that tells whether it is still there."""

    def __init__(self, built):
        super().__init__(records())
        built.append(weakref.ref(self))


def test_a_loader_keeps_no_list_of_records():
    """Every worker that looks at a list's elements copies them, one reference count after the other."""
    built = []
    watched = functools.partial(WatchedRecords, built)  # as the target, since an argument would be a copy
    loader = build_train_loader(loader_config(dataset=L(watched)()), seed=3)
    gc.collect()
    assert len(built) == 1 and built[0]() is None
    assert len(take(loader, 3)) == 3


def test_a_mapper_that_refuses_everything_is_an_error_that_says_so():
    with pytest.raises(RuntimeError, match="rejected"):
        next(iter(build_train_loader(loader_config(mapper=lambda record: None), seed=3)))


def test_a_batch_that_cannot_be_divided_is_refused_with_the_numbers():
    with pytest.raises(UsageError, match=r"total_batch_size=4 .* 3 process.* multiple of 3"):
        build_train_loader(loader_config(), seed=3, num_processes=3)


def test_an_unknown_keyword_of_the_loader_is_refused():
    with pytest.raises(UsageError, match="num_wokers"):
        build_train_loader(loader_config(num_wokers=2), seed=3)


# ---------------------------------------------------------------------------------------------- rare classes, oftener


def labelled(count=40):
    """Class 0 in every image, class 1 in one of ten, and the last image without objects."""
    classes = [{0, 1} if i % 10 == 3 else {0} for i in range(count - 1)] + [set()]
    return [
        record | {"annotations": [{"category_id": c} for c in sorted(found)]}
        for record, found in zip(records(count), classes)
    ]


def rare_config(**changes):
    return loader_config(**{"dataset": L(labelled)(), "repeat_thresh": 0.9} | changes)


def test_images_with_rare_classes_come_as_often_as_detectron2s_sampler_shows_them():
    factors = RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(labelled(), 0.9)
    assert sorted(set(factors.tolist())) == [1.0, pytest.approx(3.0)]  # sqrt(0.9 / 0.1)
    sampler = RepeatFactorTrainingSampler(factors * 1.3, seed=1)
    theirs = Counter(itertools.islice(sampler, 30_000))
    ours = Counter(index for _, index in itertools.islice(repeated_stream(factors.numpy() * 1.3, 1), 30_000))
    epochs = 30_000 / (1.3 * float(factors.sum()))
    for index, factor in enumerate(factors.tolist()):
        assert ours[index] / epochs == pytest.approx(1.3 * factor, rel=0.15)
        assert theirs[index] / epochs == pytest.approx(1.3 * factor, rel=0.15)


def test_with_power_one_a_class_comes_as_often_as_one_at_the_threshold():
    factors = repeat_factors(labelled(), 0.9, 1.0)
    assert sorted(set(factors.tolist())) == [1.0, pytest.approx(9.0)]  # 0.9 / 0.1, in a tenth of the images
    assert repeat_factors(labelled(), 0.9, 0.0).tolist() == [1.0] * len(factors)


@pytest.mark.parametrize("options", [{}, {"num_processes": 2, "rank": 1}, {"micro_batches": 2}], ids=str)
@pytest.mark.parametrize("grouping", [True, False])
def test_repeated_images_go_on_exactly_after_a_stop(grouping, options):
    cfg, each = rare_config(aspect_ratio_grouping=grouping), options.get("micro_batches", 1)
    whole = take(build_train_loader(cfg, seed=3, **options), 20 * each)
    assert take(build_train_loader(cfg, seed=3, start_iter=9, **options), 11 * each) == whole[9 * each :]
    shown = Counter(image for batch in whole for image, _ in batch)
    assert sum(shown[i] for i in (3, 13, 23, 33)) >= 4


def test_processes_share_out_the_repeated_images_of_one():
    cfg = rare_config(aspect_ratio_grouping=False)
    whole = take(build_train_loader(cfg, seed=3), 30)
    shares = [take(build_train_loader(cfg, seed=3, rank=rank, num_processes=2), 30) for rank in range(2)]
    assert [first + second for first, second in zip(*shares)] == whole


REFUSED = {
    "a sampler": ({"sampler": L(TrainingSampler)(size=40)}, "repeat_thresh=0.9 and a sampler both say the order"),
    "an iterable": ({"dataset": L(lambda: NumbersForever())(), "mapper": None}, "and an iterable data set"),
    "no annotations": ({"dataset": L(records)(count=13)}, "the records have no annotations to count"),
    "more than all": ({"repeat_thresh": 1.5}, "repeat_thresh"),
    "more than balanced": ({"repeat_power": 1.5}, "repeat_power"),
}


@pytest.mark.parametrize(("changes", "words"), REFUSED.values(), ids=REFUSED)
def test_repeating_that_has_no_meaning_is_refused(changes, words):
    with pytest.raises(UsageError, match=words):
        build_train_loader(rare_config(**changes), seed=3)


# ------------------------------------------------------------------------------------------- what the config may name


@pytest.mark.parametrize(
    "target",
    [
        build_detection_train_loader,
        "detectron2.data.build_detection_train_loader",
        "detectron2.data.build.build_detection_train_loader",
    ],
)
def test_a_config_that_names_detectron2s_loader_has_the_order_of_one_that_names_ours(target):
    expected = take(build_train_loader(loader_config(), seed=3), 6)
    cfg = loader_config()
    cfg._target_ = target
    name_own_loader(cfg)
    assert take(build_train_loader(cfg, seed=3), 6) == expected
    assert take(build_train_loader(cfg, seed=3, start_iter=2), 4) == expected[2:]
    assert cfg._target_ == "dinov2_detrex.data.TrainLoader"


def test_the_loader_iterated_by_itself_has_the_order_of_its_seed():
    assert take(instantiate(loader_config(seed=3)), 6) == take(build_train_loader(loader_config(), seed=3), 6)


def batches_of_two(images):
    return [[{"image_id": 2 * i, "noise": 0}, {"image_id": 2 * i + 1, "noise": 0}] for i in range(images // 2)]


class NumbersForever(IterableDataset):
    def __iter__(self):
        yield from ({"image_id": n, "noise": 0, "width": 9, "height": 5} for n in itertools.count())


FOREIGN = {
    "batches_of_two": L(batches_of_two)(images=6),
    "iterable": loader_config(dataset=L(NumbersForever)(), mapper=None, total_batch_size=2),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_data_in_an_order_of_their_own_are_taken_as_they_come_with_one_warning(name, caplog):
    with caplog.at_level("WARNING", logger="dinov2_detrex"):
        batches = take(build_train_loader(FOREIGN[name], seed=3), 3)
    assert batches == [[(0, 0), (1, 0)], [(2, 0), (3, 0)], [(4, 0), (5, 0)]]
    (record,) = [record for record in caplog.records if record.name.startswith("dinov2_detrex")]
    assert name in record.getMessage() and "resumed" in record.getMessage()


@pytest.mark.parametrize("name", FOREIGN)
def test_batches_that_cannot_be_divided_are_not_accumulated(name):
    with pytest.raises(UsageError, match=f"train.accumulate.steps=2.*{name}.*TrainLoader"):
        build_train_loader(FOREIGN[name], seed=3, micro_batches=2)
