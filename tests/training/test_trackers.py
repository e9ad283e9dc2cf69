"""MLflow and Weights & Biases get a run's numbers and config, offline, from their real libraries."""

import json

import pytest


def logged(folder):
    """{iteration: {name: value}} of metrics.json, finite values alone."""
    rows = [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]
    return {row.pop("iteration"): {name: value for name, value in row.items() if value is not None} for row in rows}


@pytest.fixture
def mlflow(tmp_path, monkeypatch):
    library = pytest.importorskip("mlflow", reason="mlflow is an extra")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return library


def test_mlflow_holds_the_numbers_of_metrics_json_and_the_config(train, mlflow, tmp_path):
    store = (tmp_path / "mlruns").as_uri()
    options = [f"train.mlflow.tracking_uri={store}", "train.mlflow.enabled=true", "train.mlflow.run_name=mine"]
    status, folder = train("run", "train.max_iter=4", "train.log_period=1", *options)
    assert status == 0
    client = mlflow.MlflowClient(store)
    experiment = client.get_experiment_by_name("dinov2_detrex")
    (run,) = client.search_runs([experiment.experiment_id])
    assert (run.info.status, run.info.run_name) == ("FINISHED", "mine")
    assert run.data.params["train.max_iter"] == "4" and run.data.params["optimizer.lr"] == "0.001"
    renamed = {"[metric]grad_norm": "_metric_grad_norm"}
    for name in ("total_loss", "bbox/AP", *renamed):
        there = renamed.get(name, name)
        expected = {iteration: row[name] for iteration, row in logged(folder).items() if name in row}
        found = {point.step: point.value for point in client.get_metric_history(run.info.run_id, there)}
        assert found == pytest.approx(expected) and expected, name
    assert [artifact.path for artifact in client.list_artifacts(run.info.run_id)] == ["config.yaml"]


def test_a_run_that_fails_is_marked_so(train, mlflow, tmp_path, capfd):
    store = (tmp_path / "mlruns").as_uri()
    options = [f"train.mlflow.tracking_uri={store}", "train.mlflow.enabled=true", "optimizer.lr=1e30"]
    assert train("run", "train.max_iter=30", "train.clip_grad.enabled=false", *options)[0] == 3
    assert "not finite" in capfd.readouterr().err
    client = mlflow.MlflowClient(store)
    (run,) = client.search_runs([client.get_experiment_by_name("dinov2_detrex").experiment_id])
    assert run.info.status == "FAILED"


def test_a_store_that_cannot_be_had_is_one_line(train, mlflow, tmp_path, capfd):
    (tmp_path / "a file").write_text("")
    store = f"{(tmp_path / 'a file').as_uri()}/mlruns"
    assert train("run", "train.mlflow.enabled=true", f"train.mlflow.tracking_uri='{store}'")[0] == 1
    error = capfd.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: mlflow does not start") and "train.mlflow.tracking_uri" in error


def test_an_absent_tracker_is_named_with_its_extra(train, monkeypatch, capfd):
    for package in ("mlflow", "wandb"):
        monkeypatch.setitem(__import__("sys").modules, package, None)  # as if it were not installed
        assert train("run", f"train.{package}.enabled=true")[0] == 1
        assert f'pip install "dinov2_detrex[{package}]"' in capfd.readouterr().err


def test_wandb_holds_the_run_offline(train, monkeypatch, tmp_path):
    pytest.importorskip("wandb", reason="wandb is an extra")
    monkeypatch.setenv("WANDB_MODE", "offline")
    options = ["train.wandb.enabled=true", f"train.wandb.params.dir={tmp_path}/w"]
    status, folder = train("run", "train.max_iter=2", "train.log_period=1", *options)
    assert status == 0
    (file,) = (tmp_path / "w").rglob("run-*.wandb")
    content = file.read_bytes()
    assert b"total_loss" in content and b"bbox/AP" in content and b"max_iter" in content
    assert set(logged(folder)) == {0, 1, 2}
