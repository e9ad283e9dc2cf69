"""A training leaves a report on its best weights, and a report that fails takes nothing from the finished run."""

import json

import numpy as np
import pytest

from dinov2_detrex.cli import run_command


def test_a_training_ends_with_a_report_on_its_best_weights(train, capfd):
    status, folder = train("run", "train.max_iter=6", "train.eval_period=2", "train.log_period=1", report=True)
    assert status == 0 and f"report: {folder / 'report' / 'report.html'}" in capfd.readouterr().out
    numbers = json.loads((folder / "report" / "report.json").read_text())
    assert numbers["weights"] == "best" and numbers["remarks"] == []
    rows = [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]
    best = max(row["ema/bbox/AP"] or 0 for row in rows if "ema/bbox/AP" in row)
    np.testing.assert_allclose(numbers["ap"]["AP"], best, atol=1e-9)  # of the averaged weights, which are judged
    assert numbers["costs"]["iterations"] == 6 and numbers["costs"]["images_seen"] == 24
    assert {"total_loss", "lr", "time", "data_time", "bbox/AP", "ema/bbox/AP", "max_mem_mb"} <= numbers["curves"].keys()
    assert [numbers["data"][part]["images"] for part in ("train", "val")] == [14, 5]


def test_a_report_can_be_on_other_weights_and_data(train, tiny_env, tmp_path):
    _, folder = train("run", "train.max_iter=4", "train.eval_period=2")
    out = tmp_path / "other"
    data = tiny_env / "annotations" / "instances_train.json"
    arguments = ["--data", str(data), "--images", str(tiny_env / "train"), "--weights", "final", "--out", str(out)]
    assert run_command("report", [str(folder), *arguments]) == 0
    numbers = json.loads((out / "report.json").read_text())
    assert numbers["weights"] == "final" and numbers["data"]["val"]["images"] == 14
    assert not (folder / "report").exists()


def test_without_the_report_there_is_none(train):
    status, folder = train("run", "train.max_iter=2")
    assert status == 0 and not (folder / "report").exists()


def test_a_report_that_fails_is_one_line_and_the_run_has_ended_well(train, tmp_path, capfd):
    blocked = tmp_path / "run" / "report"
    blocked.parent.mkdir()
    blocked.write_text("a file where the folder would be")
    status, folder = train("run", "train.max_iter=2", report=True)
    assert status == 0 and (folder / "model_final.pth").is_file()
    lines = [one for one in capfd.readouterr().out.splitlines() if "no report was written" in one]
    assert len(lines) == 1 and f"dinov2-detrex report {folder}" in lines[0]


def test_one_of_two_processes_writes_it(call):
    done, folder = call("run", "--num-gpus", "2", "train.device=cpu", "train.max_iter=2", report=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("report: ") == 1 and (folder / "report" / "report.html").is_file()


@pytest.mark.slow
def test_under_torchrun_too(call, python):
    launcher = [python, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done, folder = call("run", "train.device=cpu", "train.max_iter=2", launcher=launcher, report=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("report: ") == 1 and (folder / "report" / "report.html").is_file()
