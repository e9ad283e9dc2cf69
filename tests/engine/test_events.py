"""A run's numbers: what the storage keeps, what the writers write."""

import json
import math
import re

import pytest
import torch
from detectron2.utils.events import (
    CommonMetricPrinter,
    EventStorage,
    EventWriter,
    JSONWriter,
    TensorboardXWriter,
    get_event_storage,
    has_event_storage,
)

# --- the storage ------------------------------------------------------------------------------------------------


def test_the_innermost_storage_is_the_current_one():
    assert not has_event_storage()
    with pytest.raises(AssertionError):
        get_event_storage()
    with EventStorage() as outer, EventStorage(5) as inner:
        assert get_event_storage() is inner and inner.iter == inner.iteration == 5
        inner.step()
        assert (inner.iter, outer.iter) == (6, 0)
    assert not has_event_storage()


def test_scalars_have_a_latest_value_and_a_history():
    storage = EventStorage(3)
    storage.put_scalar("a", torch.tensor(1.5))
    storage.iter = 4
    storage.put_scalars(a=2.5, b=7, smoothing_hint=True)
    storage.put_scalar("late", 1, cur_iter=2)
    assert storage.latest() == {"a": (2.5, 4), "b": (7.0, 4), "late": (1.0, 2)}
    assert storage.history("a").values() == [(1.5, 3), (2.5, 4)]
    assert storage.histories()["a"].global_avg() == 2.0
    with pytest.raises(KeyError):
        storage.history("nothing")
    with pytest.raises((ValueError, TypeError)):
        storage.put_scalar("c", "no number")


def test_the_smoothing_of_a_name_is_fixed_by_its_first_use():
    storage = EventStorage()
    storage.put_scalar("a", 1, smoothing_hint=False)
    with pytest.raises(AssertionError):
        storage.put_scalar("a", 1, smoothing_hint=True)
    assert storage.smoothing_hints() == {"a": False}


def test_the_window_of_the_median_counts_iterations_not_samples():
    storage = EventStorage()
    for iteration, value in ((0, 100.0), (10, 1.0), (20, 2.0), (29, 9.0)):
        storage.iter = iteration
        storage.put_scalar("hinted", value)
        storage.put_scalar("plain", value, smoothing_hint=False)
    assert storage.count_samples("hinted", 20) == 3
    smoothed = storage.latest_with_smoothing_hint(20)
    assert smoothed == {"hinted": (2.0, 29), "plain": (9.0, 29)}


def test_a_name_scope_prefixes_and_ends():
    storage = EventStorage()
    with storage.name_scope("val"):
        storage.put_scalar("loss", 1)
    storage.put_scalar("loss", 2)
    assert set(storage.latest()) == {"val/loss", "loss"}


# --- writers ----------------------------------------------------------------------------------------------------


def json_rows(path) -> list[dict]:
    """The file's rows, read by a parser that refuses what is not JSON (NaN, Infinity)."""

    def refuse(token):
        raise AssertionError(f"{token} is not JSON")

    return [json.loads(line, parse_constant=refuse) for line in path.read_text().splitlines()]


def test_json_has_one_row_for_each_iteration_with_news(tmp_path):
    writer = JSONWriter(str(tmp_path / "metrics.json"), window_size=20)
    with EventStorage() as storage:
        storage.put_scalar("b", 3.0)
        storage.put_scalar("a", 1.0)
        writer.write()
        writer.write()
        storage.iter = 4
        storage.put_scalar("a", 2.0)
        storage.put_scalar("old", 2.0, cur_iter=0)  # not later than what was written: never written
        writer.write()
    writer.close()
    assert (tmp_path / "metrics.json").read_text().splitlines()[0] == '{"a": 1.0, "b": 3.0, "iteration": 0}'
    assert json_rows(tmp_path / "metrics.json")[1] == {"a": 1.5, "iteration": 4}


def test_json_is_appended_to(tmp_path):
    for iteration in (1, 2):
        writer = JSONWriter(str(tmp_path / "metrics.json"))
        with EventStorage(iteration) as storage:
            storage.put_scalar("a", iteration)
            writer.write()
        writer.close()
    assert [row["iteration"] for row in json_rows(tmp_path / "metrics.json")] == [1, 2]


@pytest.mark.fallback("detectron2")
def test_json_stays_json_with_nan_and_is_in_order_of_iterations(tmp_path):
    writer = JSONWriter(tmp_path / "metrics.json")
    with EventStorage() as storage:
        storage.put_scalar("bbox/APl", math.nan, smoothing_hint=False, cur_iter=5)
        storage.put_scalar("loss", math.inf, smoothing_hint=False, cur_iter=3)
        writer.write()
    assert json_rows(tmp_path / "metrics.json") == [
        {"loss": None, "iteration": 3},
        {"bbox/APl": None, "iteration": 5},
    ]


def test_the_log_line_has_its_known_shape(logged):
    messages = logged("detectron2.utils.events")
    printer = CommonMetricPrinter(max_iter=100)
    with EventStorage(45) as storage:
        storage.put_scalars(total_loss=1.5, loss_class=0.9, time=0.5, data_time=0.1)
        storage.put_scalar("[metric]x", 2)
        storage.put_scalar("lr", 1e-4, smoothing_hint=False)
        printer.write()
        assert storage.latest()["eta_seconds"][0] == pytest.approx(0.5 * 54)
        storage.iter = 100
        printer.write()
    expected = (
        " eta: 0:00:27  iter: 45  total_loss: 1.5  loss_class: 0.9  [metric]x: 2  time: 0.5000  last_time: 0.5000  "
        "data_time: 0.1000  last_data_time: 0.1000   lr: 0.0001"
    )
    assert len(messages) == 1
    assert re.sub(r"\s+max_mem: \d+M$", "", messages[0]).rstrip() == expected


def test_a_log_line_needs_neither_times_nor_a_rate(logged):
    messages = logged("detectron2.utils.events")
    with EventStorage(3) as storage:
        storage.put_scalar("total_loss", 2)
        CommonMetricPrinter().write()
    assert messages[0].startswith(" iter: 3  total_loss: 2") and "lr: N/A" in messages[0]


def test_tensorboard_gets_scalars_and_images_and_no_file_before(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    writer = TensorboardXWriter(str(tmp_path))
    assert list(tmp_path.iterdir()) == []
    with EventStorage() as storage:
        for storage.iter in (0, 1, 2):
            storage.put_scalar("loss", float(storage.iter), smoothing_hint=False)
            writer.write()
        storage.put_image("picture", torch.rand(3, 6, 8))
        storage.put_histogram("weights", torch.randn(100), bins=10)
        storage.put_scalar("loss", 9.0, smoothing_hint=False, cur_iter=3)
        writer.write()
    writer.close()
    events = accumulator.EventAccumulator(str(tmp_path)).Reload()
    assert [(e.step, e.value) for e in events.Scalars("loss")] == [(0, 0.0), (1, 1.0), (2, 2.0), (3, 9.0)]
    image = events.Images("picture")[0]
    assert (image.step, image.height, image.width) == (2, 6, 8)
    assert events.Histograms("weights")[0].histogram_value.num == 100


def test_a_writer_must_say_how_it_writes():
    with pytest.raises(NotImplementedError):
        EventWriter().write()
    assert EventWriter().close() is None
