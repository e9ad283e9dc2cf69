"""When a run is evaluated, what is kept of the best weights, and when it ends early."""

import contextlib
import copy
import logging
import math
import shutil
from collections.abc import Iterable
from pathlib import Path

import torch
from detectron2.config import instantiate
from detectron2.evaluation import DatasetEvaluator, inference_on_dataset, print_csv_format
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from omegaconf import open_dict
from torch import nn

from dinov2_detrex.config.train_options import BestMode
from dinov2_detrex.data.loader import require_read
from dinov2_detrex.detector.by_shape import ByShape
from dinov2_detrex.evaluation.coco import RESULTS_FILE
from dinov2_detrex.runtime.errors import UsageError
from dinov2_detrex.runtime.files import atomic_write
from dinov2_detrex.runtime.seeding import EVALUATION, derive_seed, seeded
from dinov2_detrex.training.parallel import unsharded
from dinov2_detrex.training.trainer import TrainerHook

logger = logging.getLogger(__name__)

EMA_PREFIX = "ema"
BEST_RESULTS_FILE = "coco_instances_results_best.json"  # the detections of model_best.pth, beside it


class Validator:
    """Evaluates a model on a config's `dataloader.test` with its `dataloader.evaluator`.

    The results do not depend on the loader's `batch_size`: images of different shapes are never padded to one another.

    Args:
        cfg_dataloader: the config section; without `evaluator` there is nothing to evaluate.
        validation_loss: also compute the training losses on the same images.
    """

    def __init__(self, cfg_dataloader, validation_loss: bool = False):
        self.cfg = cfg_dataloader
        self._loss_loader = instantiate(_labelled(self.cfg.test)) if validation_loss else None
        self._evaluators = {}
        if self.cfg.get("evaluator") is not None:
            self._loader = instantiate(self.cfg.test)  # before the evaluator, which needs the data set registered
            if self.cfg.test.get("mapper") is None and hasattr(self._loader, "dataset"):
                require_read(self._loader.dataset, "dataloader.test.mapper")
            self._evaluators[""] = instantiate(self.cfg.evaluator)
            if not isinstance(self._evaluators[""], DatasetEvaluator | list):
                kind = type(self._evaluators[""]).__name__
                raise TypeError(f"dataloader.evaluator gives a {kind}, which is no DatasetEvaluator")

    def __call__(self, model: nn.Module, ema=None) -> dict:
        """Results by task, e.g. {"bbox": {"AP": 41.2, ...}}; those of the averaged weights under "ema".

        All processes take part; the main process alone gets results. Without an evaluator in the config: {}.
        """
        if self.cfg.get("evaluator") is None:
            logger.warning("no evaluation: the config has no dataloader.evaluator")
            return {}
        results = dict(self._evaluate(model))
        if self._loss_loader is not None:
            results["validation"] = self._losses(model, self._loss_loader)
        if ema is not None:
            with ema.applied():
                results[EMA_PREFIX] = dict(self._evaluate(model, EMA_PREFIX))
        return results if comm.is_main_process() else {}

    def _evaluate(self, model: nn.Module, prefix: str = "") -> dict:
        if prefix not in self._evaluators:
            self._evaluators[prefix] = instantiate(self._evaluator_config(prefix))
        with unsharded(model):  # the processes may have different numbers of images
            results = inference_on_dataset(ByShape(model), self._loader, self._evaluators[prefix])
        if comm.is_main_process() and results:
            logger.info("results%s:", f" of the {prefix} weights" if prefix else "")
            print_csv_format(results)
        return results

    def _evaluator_config(self, prefix: str):
        """The evaluator; with a prefix its files go into a folder of that name."""
        cfg = copy.deepcopy(self.cfg.evaluator)
        if prefix and cfg.get("output_dir"):
            with open_dict(cfg):
                cfg.output_dir = f"{cfg.output_dir}/{prefix}"
        return cfg

    def _losses(self, model: nn.Module, loader: Iterable[list[dict]]) -> dict[str, float]:
        """Mean training losses over the test images, "total" included; the model draws the same noise every time.

        What the model writes into the event storage on the way is not of the training, and is dropped.
        """
        sums, count = {}, 0
        with unsharded(model), _loss_mode(model), torch.no_grad(), seeded(derive_seed(EVALUATION)), EventStorage():
            for batch in loader:
                losses = {name.removeprefix("loss_"): float(value) for name, value in model(batch).items()}
                for name, value in (losses | {"total": sum(losses.values())}).items():
                    sums[name] = sums.get(name, 0.0) + value * len(batch)
                count += len(batch)
        of_all = comm.gather((sums, count))
        total = sum(count for _, count in of_all)
        return {name: sum(sums.get(name, 0.0) for sums, _ in of_all) / total for name in sums} if total else {}


def keep_best_results(cfg_evaluator, folder: Path, averaged: bool) -> None:
    """Copy the detections of the evaluation just done, before the next one writes over them; none where there is none.

    Args:
        cfg_evaluator: the config section, whose `output_dir` the detections are in.
        folder: of the run.
        averaged: those of the averaged weights.
    """
    written = Path(cfg_evaluator.get("output_dir") or "", EMA_PREFIX if averaged else "", RESULTS_FILE)
    if written.is_file():
        with open(written, "rb") as source, atomic_write(folder / BEST_RESULTS_FILE) as target:
            shutil.copyfileobj(source, target)


def _labelled(cfg_test):
    """The test loader with its annotations left in."""
    cfg = copy.deepcopy(cfg_test)
    with open_dict(cfg):
        cfg.mapper.is_train = True
    return cfg


@contextlib.contextmanager
def _loss_mode(model: nn.Module):
    """Training mode, so that losses come out, but without dropout and without moving batch statistics."""
    modes = {module: module.training for module in model.modules()}
    try:
        model.train()
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm | nn.modules.dropout._DropoutNd):
                module.eval()
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def flatten(results: dict, prefix: str = "") -> dict[str, float]:
    """{"bbox": {"AP": 1.0}} -> {"bbox/AP": 1.0}."""
    flat = {}
    for name, value in results.items():
        flat |= flatten(value, f"{prefix}{name}/") if isinstance(value, dict) else {prefix + name: float(value)}
    return flat


class BestTracker:
    """Remembers the best value of one metric and how many evaluations have passed since.

    Args:
        metric: flattened name, e.g. "bbox/AP".
        mode: whether larger or smaller values are better.
        patience: evaluations without improvement after which training should end; 0 = never.
        min_delta: by how much a value must beat the best one to count as an improvement.
    """

    def __init__(self, metric: str, mode: BestMode = BestMode.max, patience: int = 0, min_delta: float = 0.0):
        self.metric, self.sign = metric, 1.0 if mode == BestMode.max else -1.0
        self.patience, self.min_delta = patience, min_delta
        self.best, self.waited = None, 0

    def update(self, flat_results: dict[str, float]) -> bool:
        """Take in an evaluation; True if it is the best so far. NaN never is."""
        value = flat_results.get(self.metric, math.nan)
        if self.metric not in flat_results:
            logger.warning("no metric %r among the results: %s", self.metric, ", ".join(flat_results) or "none")
        better = self.best is None or self.sign * (value - self.best) > self.min_delta
        if math.isfinite(value) and better:
            self.best, self.waited = value, 0
            return True
        self.waited += 1
        return False

    def require(self, flat_results: dict[str, float]) -> None:
        """Refuse a metric that no evaluation will bring. An evaluator may have no results, as without predictions.

        Raises:
            UsageError: others are there for the same weights; names them.
        """
        averaged = self.metric.startswith(f"{EMA_PREFIX}/")
        there = [name for name in flat_results if not name.startswith("validation/")]
        if self.metric not in flat_results and any(name.startswith(f"{EMA_PREFIX}/") == averaged for name in there):
            raise UsageError(
                f"train.best_checkpoint.metric={self.metric} is not among the results of an evaluation: "
                f"{', '.join(flat_results)}"
            )

    @property
    def exhausted(self) -> bool:
        return 0 < self.patience <= self.waited


class PeriodicEvaluation(TrainerHook):
    """Evaluates every `period` iterations and after the last one, keeps the best weights, ends a run that stalls.

    A run that was killed between a checkpoint and the evaluation due at the same iteration makes up for it on resume.

    Args:
        period: iterations; 0 or less evaluates at the end only.
        evaluate: () -> nested results; called on all processes, the main one's results count.
        tracker: judges the results; None keeps nothing and never ends early.
        save_best: (iteration, results) -> None, called on all processes after an improvement.
    """

    def __init__(self, period: int, evaluate, tracker: BestTracker | None = None, save_best=None):
        self.period, self.evaluate, self.tracker, self.save_best = period, evaluate, tracker, save_best
        self.evaluated_after = 0  # iterations that had been done at the last evaluation

    def before_train(self):
        start = self.trainer.start_iter
        if self._due(start) and self.evaluated_after != start:
            self._run(start)

    def after_step(self):
        if self._due(self.trainer.completed):
            self._run(self.trainer.completed)

    def after_train(self):
        if self.trainer.finished and self.evaluated_after != self.trainer.completed:
            self._run(self.trainer.completed)

    def _due(self, done: int) -> bool:
        return self.period > 0 and done > 0 and done % self.period == 0 and done < self.trainer.max_iter

    def _run(self, done: int) -> None:
        results = flatten(self.evaluate())
        comm.synchronize()
        self.evaluated_after = done
        for name, value in results.items():
            self.trainer.storage.put_scalar(name, value, smoothing_hint=False)
        if self.tracker is not None:
            self._judge(self.tracker, done, results)

    def _judge(self, tracker: BestTracker, done: int, results: dict[str, float]) -> None:
        if comm.is_main_process():
            tracker.require(results)
        verdict = (tracker.update(results), tracker.exhausted) if comm.is_main_process() else None
        improved, exhausted = comm.all_gather(verdict)[0]
        if improved and self.save_best is not None:
            self.save_best(done - 1, results)
        if exhausted:
            logger.info("no better %s for %d evaluations: the run ends", tracker.metric, tracker.patience)
            self.trainer.stop()

    def state_dict(self) -> dict:
        state = {"evaluated_after": self.evaluated_after}
        return state | ({"best": self.tracker.best, "waited": self.tracker.waited} if self.tracker else {})

    def load_state_dict(self, state: dict) -> None:
        self.evaluated_after = state["evaluated_after"]
        if self.tracker is not None and "best" in state:
            self.tracker.best, self.tracker.waited = state["best"], state["waited"]
