"""Running a model over a data set and collecting numbers: `inference_on_dataset` and what it calls."""

import contextlib
import datetime
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from detectron2.utils.comm import get_world_size, is_main_process
from detectron2.utils.logger import log_every_n_seconds
from torch import nn

logger = logging.getLogger(__name__)


class DatasetEvaluator:
    """Sees every batch of inputs and outputs, then says how good the outputs were."""

    def reset(self) -> None:
        """Forget what was seen."""

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        """Take in a batch: what the model was given, and what it returned, pair by pair."""

    def evaluate(self) -> dict | None:
        """{task: {metric: value}} over all that was seen by all processes; only the main process must return it."""


class DatasetEvaluators(DatasetEvaluator):
    """Several evaluators on the same batches."""

    def __init__(self, evaluators: Sequence[DatasetEvaluator]):
        self._evaluators = evaluators

    def reset(self) -> None:
        for evaluator in self._evaluators:
            evaluator.reset()

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        for evaluator in self._evaluators:
            evaluator.process(inputs, outputs)

    def evaluate(self) -> OrderedDict:
        """Their results in one; AssertionError if two have the same task."""
        results = OrderedDict()
        for evaluator in self._evaluators:
            result = evaluator.evaluate()
            if is_main_process() and result is not None:
                for task, metrics in result.items():
                    assert task not in results, f"two evaluators give results for {task!r}"
                    results[task] = metrics
        return results


@contextlib.contextmanager
def inference_context(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside, the mode of before afterwards, even after an exception."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def inference_on_dataset(
    model: Callable[[list[dict]], list[dict]] | nn.Module,
    data_loader: Iterable[list[dict]],
    evaluator: DatasetEvaluator | list[DatasetEvaluator] | None,
    callbacks: dict[str, Callable[[], None]] | None = None,
) -> dict:
    """Run the model over the loader without gradients and let the evaluator judge.

    Args:
        model: a function, or a module, which is in evaluation mode meanwhile.
        data_loader: batches; must have a length.
        evaluator: one, several, or None to measure the speed alone.
        callbacks: optional "on_start", "before_inference", "after_inference" (around every batch), "on_end".

    Returns:
        the evaluator's results; {} for None.
    """
    callbacks = callbacks or {}
    if evaluator is None or isinstance(evaluator, list):
        evaluator = DatasetEvaluators(evaluator or [])
    evaluator.reset()
    with contextlib.ExitStack() as stack:
        if isinstance(model, nn.Module):
            stack.enter_context(inference_context(model))
        stack.enter_context(torch.no_grad())
        _call(callbacks, "on_start")
        _run(model, data_loader, evaluator, callbacks)
        _call(callbacks, "on_end")
    results = evaluator.evaluate()
    return {} if results is None else results


def _call(callbacks: dict[str, Callable[[], None]], name: str) -> None:
    if callbacks.get(name) is not None:
        callbacks[name]()


def _run(model, data_loader, evaluator: DatasetEvaluator, callbacks: dict[str, Callable[[], None]]) -> None:
    clock = _Clock(len(data_loader))
    logger.info("Start inference on %d batches", len(data_loader))
    clock.start("data")
    for index, inputs in enumerate(data_loader):
        clock.start("inference")
        _call(callbacks, "before_inference")
        outputs = model(inputs)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        _call(callbacks, "after_inference")
        clock.start("evaluation")
        evaluator.process(inputs, outputs)
        clock.start("data")
        clock.batch_done(index)
    clock.finish()


class _Clock:
    """Where the seconds of an evaluation go, the first batches left out, and when it will be done."""

    PHASES = ("data", "inference", "evaluation")
    LOG_PERIOD_S = 5

    def __init__(self, num_batches: int):
        self.num_batches = num_batches
        self.num_warmup = min(5, max(num_batches - 1, 0))
        self._restart()

    def _restart(self) -> None:
        self.seconds: dict[str, float] = dict.fromkeys(self.PHASES, 0.0)
        self.num_timed = 0
        self.begin = time.perf_counter()
        self._phase, self._phase_begin = "data", self.begin

    def start(self, phase: str) -> None:
        """Book the time since the last call on the phase that ends now."""
        now = time.perf_counter()
        self.seconds[self._phase] += now - self._phase_begin
        self._phase, self._phase_begin = phase, now

    def batch_done(self, index: int) -> None:
        self.num_timed += 1
        if index + 1 == self.num_warmup:
            self._restart()
        elif index >= 2 * self.num_warmup:
            log_every_n_seconds(logging.INFO, self._progress(index + 1), n=self.LOG_PERIOD_S, name=__name__)

    def _progress(self, done: int) -> str:
        per_batch = [self.seconds[phase] / self.num_timed for phase in self.PHASES]
        total = (time.perf_counter() - self.begin) / self.num_timed
        eta = datetime.timedelta(seconds=int(total * (self.num_batches - done)))
        data, inference, evaluation = (f"{seconds:.4f} s/iter" for seconds in per_batch)
        parts = f"Dataloading: {data}. Inference: {inference}. Eval: {evaluation}. Total: {total:.4f} s/iter. ETA={eta}"
        return f"Inference done {done}/{self.num_batches}. {parts}"

    def finish(self) -> None:
        total = time.perf_counter() - self.begin
        for what, seconds in (("time", total), ("pure compute time", self.seconds["inference"])):
            whole = datetime.timedelta(seconds=int(seconds))
            per_batch = seconds / max(self.num_timed, 1)
            devices = get_world_size()
            logger.info(
                "Total inference %s: %s (%.6f s/iter per device, on %d devices)", what, whole, per_batch, devices
            )
