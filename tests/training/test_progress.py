"""What a run writes: valid and ordered metrics, the same to TensorBoard and W&B, and memory that stays flat."""

import itertools
import json
import math
import subprocess
import time
from pathlib import Path

import pytest
from detectron2.utils.events import EventStorage

from dinov2_detrex.training.progress import ForgetOldValues, MetricsJson


def read(path):
    def refuse(token):
        raise AssertionError(f"{token} is not JSON")

    return [json.loads(line, parse_constant=refuse) for line in path.read_text().splitlines()]


def test_values_that_json_does_not_know_are_null(tmp_path):
    with EventStorage(0) as storage:
        storage.put_scalars(a=math.nan, b=math.inf, c=1.5, smoothing_hint=False)
        MetricsJson(tmp_path / "m.json").write()
    assert read(tmp_path / "m.json") == [{"a": None, "b": None, "c": 1.5, "iteration": 0}]


def test_each_iteration_is_one_line_in_order_and_nothing_is_written_twice(tmp_path):
    writer = MetricsJson(tmp_path / "m.json")
    with EventStorage(0) as storage:
        storage.iter = 5
        storage.put_scalar("late", 5.0)
        storage.put_scalar("early", 3.0, cur_iter=3)
        writer.write(), writer.write()
        storage.iter = 6
        storage.put_scalar("late", 6.0, smoothing_hint=True)
        writer.write()
    assert [(r["iteration"], sorted(r)[0]) for r in read(tmp_path / "m.json")] == [
        (3, "early"),
        (5, "iteration"),
        (6, "iteration"),
    ]


def test_lines_of_a_killed_run_that_is_repeated_are_removed_a_broken_one_too(tmp_path):
    path = tmp_path / "m.json"
    path.write_text("".join(json.dumps({"iteration": i, "a": 1}) + "\n" for i in range(6)) + '{"iteration": 6, "a"')
    MetricsJson(path, start_iter=4)
    assert [record["iteration"] for record in read(path)] == [0, 1, 2, 3]


def test_tensorboard_holds_the_same_numbers(train):
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    _, folder = train("run", "train.max_iter=4", "train.log_period=1")
    events = event_accumulator.EventAccumulator(str(folder)).Reload()
    expected = {r["iteration"]: r["total_loss"] for r in read(folder / "metrics.json") if "total_loss" in r}
    assert {e.step: e.value for e in events.Scalars("total_loss")} == pytest.approx(expected) and len(expected) == 4
    assert {"bbox/AP", "ema/bbox/AP", "lr", "time"} <= set(events.Tags()["scalars"])


class Ticks:
    """What a hook sees of a trainer."""

    def __init__(self, storage):
        self.storage, self.completed = storage, 0


def test_old_values_are_forgotten_and_the_averages_are_not():
    with EventStorage(0) as storage:
        hook = ForgetOldValues(period=10, keep=15)
        hook.trainer = Ticks(storage)
        for i in range(100):
            storage.iter, hook.trainer.completed = i, i + 1
            storage.put_scalar("x", i)
            hook.after_step()
            assert len(storage.history("x").values()) <= 25
        assert storage.history("x").global_avg() == pytest.approx(49.5)
        assert storage.history("x").median(10) == 94.5


def proportional_mib(pid):
    """Memory of a process and its children, shared pages counted once among those who share them."""
    total = 0
    for one in [pid, *map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]:
        lines = Path(f"/proc/{one}/smaps_rollup").read_text().splitlines()
        total += next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total / 1024


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="reads memory from /proc")
def test_memory_stays_flat_over_a_long_run_on_a_large_data_set(command, tiny_shapes, tmp_path):
    document = json.loads((tiny_shapes / "annotations" / "instances_train.json").read_text())
    large = {**document, "images": [], "annotations": []}
    ids = itertools.count(1)
    for copy in range(2000):  # 28,000 images in the JSON, 14 files
        shift = copy * 100
        large["images"] += [{**image, "id": image["id"] + shift} for image in document["images"]]
        boxes = ({**box, "image_id": box["image_id"] + shift} for box in document["annotations"])
        large["annotations"] += [{**box, "id": next(ids)} for box in boxes]
    (tmp_path / "large.json").write_text(json.dumps(large))
    options = [f"dataloader.train.dataset.json_file={tmp_path}/large.json", "dataloader.train.num_workers=2"]
    options += ["train.max_iter=1000000", "train.eval_period=500", "train.checkpointer.period=500"]
    line, keywords, folder = command("run", *options, "train.checkpointer.max_to_keep=2")
    process = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT, **keywords)
    try:
        samples = []
        while len(samples) < 80:
            time.sleep(1)
            assert process.poll() is None
            if list(folder.glob("model_*.pth")):
                samples.append(proportional_mib(process.pid))
    finally:
        process.kill()
    early, late = (sorted(part)[len(part) // 2] for part in (samples[20:40], samples[60:80]))
    print(f"iterations: {read(folder / 'metrics.json')[-1]['iteration']}, MiB early {early:.1f}, late {late:.1f}")
    assert late - early < 0.01 * early
