"""A resumed run equals an uninterrupted one to the last bit, wherever it was stopped and whatever is switched on."""

import json
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from dinov2_detrex.training import checkpoint, resuming

OFTEN = ("train.checkpointer.period=3", "train.log_period=3")


def assert_equal(one, other, path="checkpoint"):
    """Every tensor to the last bit, every number, every key."""
    assert type(one) is type(other), path
    if isinstance(one, dict):
        assert one.keys() == other.keys(), path
        for key in one:
            assert_equal(one[key], other[key], f"{path}/{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), path
        for i, pair in enumerate(zip(one, other)):
            assert_equal(*pair, f"{path}/{i}")
    else:
        assert torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other, path


def final(folder):
    return checkpoint.read(folder / "model_final.pth")


def learning_rates(folder):
    """iteration -> learning rate, as metrics.json has them (the losses there are smoothed over a window)."""
    records = [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]
    return [(record["iteration"], record["lr"]) for record in records if "total_loss" in record]


def cut(folder, iteration):
    """Make the folder what a kill after `iteration` would have left: later checkpoints gone, later lines written."""
    for path in folder.glob("model_*.pth"):
        if path.stem in ("model_final", "model_best") or int(path.stem[-7:]) > iteration:
            path.unlink()
    (folder / "last_checkpoint").write_text(f"model_{iteration:07d}.pth")


@pytest.mark.parametrize(
    "options",
    [
        pytest.param((), id="as configured"),
        pytest.param(("train.amp.enabled=true",), id="bfloat16"),
        pytest.param(("train.amp.enabled=true", "train.amp.dtype=float16"), id="float16 with a scaler"),
        pytest.param(("train.accumulate.steps=2",), id="accumulation"),
        pytest.param(("dataloader.train.num_workers=2",), id="workers"),
        pytest.param(("dataloader.train.aspect_ratio_grouping=false", "train.model_ema.enabled=false"), id="plain"),
    ],
)
def test_a_resumed_run_ends_as_an_uninterrupted_one(train, options):
    status, whole = train("run", *OFTEN, *options)
    assert status == 0
    expected, expected_rates = final(whole), learning_rates(whole)
    for stopped_after in (8, 2):
        cut(whole, stopped_after)
        np.random.seed(1), torch.manual_seed(1)  # as another process would start
        status, resumed = train("run", "--resume", *OFTEN, *options)
        assert status == 0
        assert_equal(final(resumed), expected)
        assert learning_rates(resumed) == expected_rates and len(expected_rates) == 4


def test_evaluations_and_workers_leave_the_training_alone(train):
    _, often = train("often", "train.eval_period=2")
    _, never = train("never", "train.eval_period=0", "dataloader.train.num_workers=1")
    assert_equal(final(often)["model"], final(never)["model"])
    assert_equal(final(often)["trainer"]["optimizer"], final(never)["trainer"]["optimizer"])


def test_another_seed_gives_another_run(train):
    _, one = train("one", "train.max_iter=2")
    _, other = train("other", "train.max_iter=2", "train.seed=8")
    assert not torch.equal(final(one)["model"]["box.weight"], final(other)["model"]["box.weight"])


def test_a_run_without_a_seed_keeps_the_one_it_drew(train):
    _, folder = train("run", "train.seed=-1", *OFTEN)
    expected = final(folder)
    cut(folder, 5)
    train("run", "--resume", "train.seed=-1", *OFTEN)
    assert_equal(final(folder), expected)


def test_a_longer_max_iter_continues_a_finished_run(train):
    train("run", "train.max_iter=6")
    status, folder = train("run", "--resume", "train.max_iter=8")
    assert status == 0 and final(folder)["iteration"] == 7


def test_resuming_a_finished_run_evaluates_once_and_changes_nothing(train):
    _, folder = train("run", "train.max_iter=4")
    expected, results = final(folder), folder / "coco_instances_results.json"
    text = results.read_text()
    results.unlink()
    status, _ = train("run", "--resume", "train.max_iter=4")
    assert status == 0 and results.read_text() == text
    assert_equal(final(folder), expected)


def test_resume_without_a_checkpoint_starts_and_says_so(train, capfd):
    status, folder = train("run", "--resume", "train.max_iter=2")
    assert status == 0 and final(folder)["iteration"] == 1
    assert "no checkpoint in" in capfd.readouterr().out


def test_a_killed_run_that_owes_an_evaluation_makes_up_for_it(train, capfd):
    _, folder = train(
        "run", "train.eval_period=6", "train.checkpointer.period=6", "train.best_checkpoint.metric=bbox/AP50"
    )
    cut(folder, 5)  # saved, and killed before the evaluation that was due after the same iteration
    capfd.readouterr()
    train("run", "--resume", "train.eval_period=6", "train.checkpointer.period=6", "train.max_iter=7")
    evaluated = [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]
    assert [r["iteration"] for r in evaluated if "bbox/AP" in r][-2:] == [6, 7]


@pytest.mark.parametrize(
    "options, words",
    [
        ((), []),
        (("dataloader.train.repeat_thresh=0.5",), ["dataloader.train.repeat_thresh was None, is 0.5"]),
        (("dataloader.train.total_batch_size=2",), ["dataloader.train.total_batch_size was 4, is 2"]),
        (
            ("dataloader.train.total_batch_size=8", "train.accumulate.steps=2"),
            ["dataloader.train.total_batch_size was 4, is 8", "train.accumulate.steps was 1, is 2"],
        ),
    ],
)
def test_resuming_with_other_batches_is_one_warning_with_the_keys_that_differ(train, capfd, options, words):
    train("run", "train.max_iter=2", "train.eval_period=0")
    capfd.readouterr()
    assert train("run", "--resume", "train.max_iter=3", "train.eval_period=0", *options)[0] == 0
    lines = [line for line in capfd.readouterr().out.splitlines() if "other batches than before" in line]
    assert len(lines) == bool(words) and all(word in lines[0] for word in words), lines
    assert not words or "processes" not in lines[0]


def test_another_number_of_processes_is_named_and_a_checkpoint_that_says_none_is_taken(caplog):
    now = resuming.Batches(total_batch_size=4, accumulate_steps=1, processes=1)
    resuming.compare_batches({}, now)
    assert not caplog.messages
    resuming.compare_batches({"batches": {"total_batch_size": 4, "accumulate_steps": 1, "processes": 2}}, now)
    (message,) = caplog.messages
    assert "processes (--num-gpus x --num-machines) was 2, is 1" in message and "batch_size" not in message


def _kill_during(process, wait_for, seconds):
    """SIGKILL that many seconds after the file appears."""
    deadline = time.monotonic() + 60
    while not wait_for.exists() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.01)
    time.sleep(seconds)
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=300)


@pytest.mark.slow
def test_killed_ten_times_at_random_moments_a_run_ends_with_the_weights_of_an_undisturbed_one(command):
    options = ("train.max_iter=120", "train.checkpointer.period=2", "train.eval_period=15", "model.pause=0.02")
    options += ("train.checkpointer.max_to_keep=3", "dataloader.train.num_workers=1")
    line, keywords, undisturbed = command("undisturbed", *options)
    subprocess.run(line, check=True, capture_output=True, timeout=300, **keywords)
    rng = np.random.default_rng()
    kills = 0
    for _ in range(10):
        line, keywords, folder = command("killed", "--resume", *options)
        process = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **keywords)
        before = set(Path(folder).glob("model_*.pth"))
        _kill_during(process, _New(folder, before), rng.uniform(0, 0.5))
        kills += process.returncode == -signal.SIGKILL
    line, keywords, folder = command("killed", "--resume", *options)
    subprocess.run(line, check=True, capture_output=True, timeout=300, **keywords)
    assert kills == 10
    assert_equal(final(folder), final(undisturbed))


class _New:
    """Looks like a path that exists once the folder holds a checkpoint that was not there before."""

    def __init__(self, folder, before):
        self.folder, self.before = Path(folder), before

    def exists(self):
        return bool(set(self.folder.glob("model_*.pth")) - self.before)
