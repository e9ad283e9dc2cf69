"""What is kept is read to the bit or not at all, within the bound; the run's own stays, what is older gives way."""

import os

import pytest
import torch

from dinov2_detrex.backbone.feature_store import SUFFIX, FeatureStore
from dinov2_detrex.runtime.errors import UserError

PLENTY = 10**8
ENTRY = {"p9": torch.arange(1000.0), "p-1.cls": torch.rand(5).bfloat16(), "p10": torch.zeros(1, 2)}
BYTES = 4_300  # of such an entry's file, rounded up


def path_of(store, key):
    return store.folder / key[:2] / f"{key}{SUFFIX}"


def made_older(store, *keys):
    for age, key in enumerate(reversed(keys), start=1):
        os.utime(path_of(store, key), ns=(0, 10**9 * (10**6 - age)))


def keys_of(store):
    return {path.name.removesuffix(SUFFIX) for path in store.folder.glob("??/*")}


def test_what_another_process_kept_is_read_to_the_bit(tmp_path):
    FeatureStore(tmp_path / "new" / "folder", PLENTY).write("aa1", ENTRY)
    read = FeatureStore(tmp_path / "new" / "folder", PLENTY).read("aa1")
    assert list(read) == list(ENTRY)
    assert all(torch.equal(read[name], value) and read[name].dtype == value.dtype for name, value in ENTRY.items())
    assert FeatureStore(tmp_path, PLENTY).read("aa2") is None


@pytest.mark.parametrize("damage", [lambda data: data[:-5], lambda data: data[:50] + b"!" + data[51:], lambda _: b""])
def test_a_damaged_file_is_as_one_that_is_not_there_and_is_replaced(tmp_path, damage):
    store = FeatureStore(tmp_path, PLENTY)
    store.write("aa1", ENTRY)
    path_of(store, "aa1").write_bytes(damage(path_of(store, "aa1").read_bytes()))
    assert store.read("aa1") is None
    store.write("aa1", ENTRY)
    assert torch.equal(store.read("aa1")["p9"], ENTRY["p9"])


def test_the_oldest_of_earlier_runs_gives_way(tmp_path):
    earlier = FeatureStore(tmp_path, PLENTY)
    for key in ("aa1", "bb2", "cc3", "dd4"):
        earlier.write(key, ENTRY)
    made_older(earlier, "aa1", "bb2", "cc3", "dd4")
    store = FeatureStore(tmp_path, 5 * BYTES)
    assert store.read("aa1")  # used again, so no longer old
    store.write("ee5", ENTRY)
    store.write("ff6", ENTRY)
    assert {"aa1", "ee5", "ff6"} <= keys_of(store) and "bb2" not in keys_of(store)
    assert sum(path.stat().st_size for path in tmp_path.glob("??/*")) <= 5 * BYTES


def test_a_run_that_does_not_fit_keeps_what_came_first_and_says_so_once(tmp_path, caplog):
    store = FeatureStore(tmp_path, 3 * BYTES)
    for key in ("aa1", "bb2", "cc3", "dd4", "ee5"):
        store.write(key, ENTRY)
    assert keys_of(store) == {"aa1", "bb2", "cc3"}
    assert [record.message.count("is full") for record in caplog.records] == [1]


def test_several_processes_keep_within_the_bound_together(tmp_path):
    stores = [FeatureStore(tmp_path, 6 * BYTES, num_processes=2) for _ in range(2)]
    for number in range(8):
        for rank, store in enumerate(stores):
            store.write(f"{number}{rank}", ENTRY)
    assert len(list(tmp_path.glob("??/*"))) == 6


def test_what_killed_writers_left_gives_way_too(tmp_path):
    (tmp_path / "aa").mkdir()
    left = tmp_path / "aa" / ".unfinished-aa1.features-0.tmp"
    left.write_bytes(bytes(3 * BYTES))
    os.utime(left, (0, 0))
    FeatureStore(tmp_path, 3 * BYTES).write("bb2", ENTRY)
    assert not left.exists() and (tmp_path / "bb" / f"bb2{SUFFIX}").exists()


def test_a_folder_that_cannot_be_used_is_refused_in_a_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"feature_cache\.folder=.*file cannot be used: \w+"):
        FeatureStore(tmp_path / "file", PLENTY)


def test_a_disk_that_takes_no_more_costs_a_warning_and_not_the_run(tmp_path, caplog):
    store = FeatureStore(tmp_path, PLENTY)
    (tmp_path / "aa").write_text("in the way")
    for key in ("aa1", "bb2"):
        store.write(key, ENTRY)
    assert store.read("aa1") is None and store.read("bb2") is None
    assert [record.message.count("takes no more") for record in caplog.records] == [1]
