"""Evaluation during a run: what is measured, what is kept as the best, when a run ends early."""

import json
import math

import pytest
import torch
from detectron2.config import LazyCall as L
from detectron2.evaluation import DatasetEvaluator
from omegaconf import OmegaConf
from tiny_dino import image, tiny_dino
from tiny_dino import record as as_input

from dinov2_detrex.training import checkpoint
from dinov2_detrex.training.evaluation import BestTracker, PeriodicEvaluation, Validator, flatten
from dinov2_detrex.training.trainer import Trainer


def records(folder):
    return [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]


def test_results_are_flattened_by_task():
    assert flatten({"bbox": {"AP": 1}, "ema": {"bbox": {"AP": 2.5}}, "x": 3}) == {
        "bbox/AP": 1,
        "ema/bbox/AP": 2.5,
        "x": 3,
    }


def test_plain_and_averaged_weights_are_evaluated_under_their_own_names_and_files(train):
    _, folder = train("run", "train.max_iter=4", "train.model_ema.decay=0.9999", "optimizer.lr=0.1")
    last = records(folder)[-1]
    names = {name.removeprefix("ema/") for name in last if name.startswith("ema/")}
    assert {"bbox/AP", "bbox/AP50", "bbox/AP-circle"} <= names <= set(last)
    plain, averaged = (json.loads((folder / sub / "coco_instances_results.json").read_text()) for sub in ("", "ema"))
    assert [r["score"] for r in plain] != [r["score"] for r in averaged]


def test_metrics_are_valid_json_in_order_of_iterations(train):
    _, folder = train("run", "train.log_period=5", "train.eval_period=2")
    text = (folder / "metrics.json").read_text()
    assert "NaN" not in text
    iterations = [record["iteration"] for record in records(folder)]
    assert iterations == sorted(iterations) and records(folder)[-1]["bbox/APl"] is None  # no large objects: undefined


def test_validation_losses_are_the_mean_over_the_test_images_and_leave_the_training_alone(train):
    off = ("train.max_iter=3", "train.log_period=1", "train.eval_period=1", "model.noise=0")
    _, with_losses = train("with", *off, "train.validation_loss.enabled=true")
    _, without = train("without", *off)
    values = [record for record in records(with_losses) if "validation/total" in record]
    assert [r["iteration"] for r in values] == [0, 1, 3]
    for record in values:
        assert record["validation/total"] == pytest.approx(record["validation/class"] + record["validation/bbox"])
    first, second = (checkpoint.read(f / "model_final.pth")["model"] for f in (with_losses, without))
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("mode, values", [("max", [1.0, 3.0, 2.0, 3.0, 3.5]), ("min", [-1.0, -3.0, -2.0, -3.0, -3.5])])
def test_the_best_value_is_the_extreme_one_and_a_tie_is_no_improvement(mode, values):
    tracker = BestTracker("x", mode)
    assert [tracker.update({"x": value}) for value in values] == [True, True, False, False, True]
    assert tracker.best == values[-1]


def test_nan_and_a_missing_metric_are_never_the_best():
    tracker = BestTracker("x", patience=3)
    assert not tracker.update({"x": math.nan}) and not tracker.update({"y": 1.0}) and tracker.best is None
    assert tracker.update({"x": -5.0}) and not tracker.update({"x": math.inf * 0})


@pytest.mark.parametrize("metric", ["bbox/APX", "nothing", "validation/total"])
def test_a_metric_that_never_appears_ends_the_run_at_the_first_evaluation_with_those_that_do(train, capfd, metric):
    status, folder = train("run", "train.eval_period=2", f"train.best_checkpoint.metric={metric}")
    stderr = capfd.readouterr().err
    assert status == 2 and stderr.count("\n") == 1 and metric in stderr and "bbox/AP50" in stderr, stderr
    assert len(learned := list(folder.glob("model_*.pth"))) == 0, learned


def test_an_evaluation_without_any_results_is_waited_out():
    BestTracker("bbox/AP").require({})
    BestTracker("bbox/AP").require({"validation/total": 1.0})


def test_min_delta_is_what_an_improvement_must_exceed():
    tracker = BestTracker("x", min_delta=0.5)
    assert [tracker.update({"x": v}) for v in (1.0, 1.4, 1.6)] == [True, False, True]


def scripted_run(values, period=2, patience=2, max_iter=20, **state):
    """A run whose evaluations give `values`; returns the trainer, the hook and the iterations that were kept."""
    model = torch.nn.Linear(1, 1)
    model.forward = lambda batch: model.weight.sum()
    kept, left = [], iter(values)
    trainer = Trainer(model, ([{}] for _ in range(100)), torch.optim.SGD(model.parameters(), lr=0.0))
    hook = PeriodicEvaluation(
        period,
        lambda: {"x": next(left)},
        BestTracker("x", patience=patience),
        lambda i, results: kept.append((i, results)),
    )
    trainer.register_hooks([hook])
    trainer.train(0, max_iter)
    return trainer, hook, kept


def test_a_run_ends_after_as_many_evaluations_without_a_better_one_as_it_is_patient():
    trainer, hook, kept = scripted_run([1.0, 2.0, 1.5, 1.8, 9.0])
    assert trainer.completed == 8 and trainer.finished
    assert kept == [(1, {"x": 1.0}), (3, {"x": 2.0})]


def test_an_improvement_renews_the_patience():
    trainer, _, kept = scripted_run([1.0, 0.5, 2.0, 1.5, 3.0], max_iter=10)
    assert trainer.completed == 10 and [i for i, _ in kept] == [1, 5, 9]


def test_an_improving_run_does_not_end_early_and_is_evaluated_once_at_the_end():
    trainer, hook, kept = scripted_run([1.0, 2.0, 3.0], max_iter=6)
    assert trainer.completed == 6 and [i for i, _ in kept] == [1, 3, 5]


def test_period_0_evaluates_at_the_end_only():
    assert [i for i, _ in scripted_run([1.0], period=0, max_iter=5)[2]] == [4]


def test_a_run_that_fails_is_not_evaluated():
    model = torch.nn.Linear(1, 1)
    trainer = Trainer(model, [], torch.optim.SGD(model.parameters(), lr=0.0))
    trainer.register_hooks([PeriodicEvaluation(1, lambda: pytest.fail("evaluated"))])
    with pytest.raises(StopIteration):
        trainer.train(0, 3)


def test_the_best_checkpoint_is_kept_apart_from_what_resume_continues(train):
    _, folder = train("run", "train.eval_period=2", "train.checkpointer.period=4", "train.max_iter=6")
    best = checkpoint.read(folder / "model_best.pth")
    assert (folder / "last_checkpoint").read_text() == "model_final.pth"
    assert best["results"]["ema/bbox/AP"] == max(r["ema/bbox/AP"] for r in records(folder) if "ema/bbox/AP" in r)
    assert best["metadata"]["thing_classes"] and "trainer" not in best


def test_the_best_of_averaged_weights_holds_the_averaged_weights(train):
    _, folder = train("run", "train.max_iter=3", "train.eval_period=0")
    best, final = checkpoint.read(folder / "model_best.pth"), checkpoint.read(folder / "model_final.pth")
    assert torch.equal(best["model"]["box.weight"], final["ema_state"]["box.weight"])
    assert not torch.equal(best["model"]["box.weight"], final["model"]["box.weight"])


def test_the_best_value_and_the_patience_survive_a_resume(train):
    options = ("train.eval_period=1", "train.checkpointer.period=1", "train.early_stopping.patience=4")
    _, whole = train("whole", *options, "optimizer.lr=0")
    stopped_at = checkpoint.read(whole / "model_final.pth")["iteration"]
    assert stopped_at == 4  # the first evaluation is the best, four more bring nothing
    _, halves = train("halves", *options, "optimizer.lr=0", "train.max_iter=3")
    train("halves", "--resume", *options, "optimizer.lr=0")
    assert checkpoint.read(halves / "model_final.pth")["iteration"] == stopped_at


class Recorder(DatasetEvaluator):
    """Keeps the scores of every image."""

    def reset(self):
        self.scores = {}

    def process(self, inputs, outputs):
        for given, found in zip(inputs, outputs, strict=True):
            for rank, score in enumerate(found["instances"].scores.tolist()):
                self.scores[f"{given['file_name']}-{rank}"] = score

    def evaluate(self):
        return {"bbox": dict(self.scores)}


def pictures_of_two_sizes(batch_size):
    pictures = [as_input(image(64, 64), file_name="small"), as_input(image(128, 192), file_name="large")]
    return [pictures[i : i + batch_size] for i in range(0, 2, batch_size)]


def test_results_do_not_depend_on_the_batch_size_of_the_test_loader():
    torch.manual_seed(0)
    model, results = tiny_dino(embed_dim=64, num_heads=4), []
    for batch_size in (1, 2):
        section = {"test": L(pictures_of_two_sizes)(batch_size=batch_size), "evaluator": L(Recorder)()}
        validator = Validator(OmegaConf.create(section, flags={"allow_objects": True}))
        results.append(validator._evaluate(model)["bbox"])
    assert {"small-0", "large-0"} < results[0].keys()
    assert results[0] == pytest.approx(results[1], rel=0, abs=1e-5)
    assert model.training  # as it was before
