"""What happens in one training run, and in one step of it? Hooks surround the step; the step feeds, sums, descends."""

import concurrent.futures
import logging
import math
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import nn

from ..utils import comm
from ..utils.events import EventStorage, get_event_storage

__all__ = ["AMPTrainer", "HookBase", "SimpleTrainer", "TrainerBase"]

logger = logging.getLogger(__name__)


class HookBase:
    """Something to do around the steps of a run. `trainer` is set at registration and does not keep it alive.

    Order in a run: before_train; for each iteration before_step, (forward, backward,) after_backward, (optimizer,)
    after_step; then after_train, also after a failure, with `trainer.iter < trainer.max_iter` in that case.
    """

    trainer: "TrainerBase" = None

    def before_train(self) -> None: ...

    def after_train(self) -> None: ...

    def before_step(self) -> None: ...

    def after_backward(self) -> None: ...

    def after_step(self) -> None: ...

    def state_dict(self) -> dict:
        """What a checkpoint keeps of this hook; with something in it there must be a `load_state_dict`."""
        return {}


class TrainerBase:
    """An iterative run with hooks; a subclass says what a step is.

    Attributes:
        iter: the current iteration; `max_iter` once the run is complete.
        start_iter, max_iter: set by `train`.
        storage: the `EventStorage` in use during `train`.
    """

    def __init__(self):
        self._hooks: list[HookBase] = []
        self.iter = 0
        self.start_iter = 0
        self.max_iter = 0
        self.storage: EventStorage | None = None

    def register_hooks(self, hooks: Iterable[HookBase | None]) -> None:
        """Add hooks behind those there are; None entries are skipped."""
        hooks = [hook for hook in hooks if hook is not None]
        for hook in hooks:
            assert isinstance(hook, HookBase), f"not a HookBase: {hook!r}"
            hook.trainer = weakref.proxy(self)
        self._hooks.extend(hooks)

    def train(self, start_iter: int, max_iter: int) -> None:
        """Run iterations start_iter .. max_iter - 1; an exception is logged and raised after the hooks' after_train."""
        logger.info("Starting training from iteration %d", start_iter)
        self.iter = self.start_iter = start_iter
        self.max_iter = max_iter
        with EventStorage(start_iter) as self.storage:
            try:
                self.before_train()
                while self.iter < max_iter:
                    self.before_step()
                    self.run_step()
                    self.after_step()
                    self.iter += 1
            except Exception:
                logger.exception("Exception during training in iteration %d:", self.iter)
                raise
            finally:
                self.after_train()

    def run_step(self) -> None:
        raise NotImplementedError

    def before_train(self) -> None:
        for hook in self._hooks:
            hook.before_train()

    def after_train(self) -> None:
        self.storage.iter = self.iter
        for hook in self._hooks:
            hook.after_train()

    def before_step(self) -> None:
        self.storage.iter = self.iter
        for hook in self._hooks:
            hook.before_step()

    def after_backward(self) -> None:
        for hook in self._hooks:
            hook.after_backward()

    def after_step(self) -> None:
        for hook in self._hooks:
            hook.after_step()

    def state_dict(self) -> dict:
        """{"iteration", "hooks": {class name: state}}; of several hooks of a class, the first one with a state."""
        states: dict[str, dict] = {}
        for hook in self._hooks:
            state, name = hook.state_dict(), type(hook).__qualname__
            if state and name not in states:
                states[name] = state
        return {"iteration": self.iter, **({"hooks": states} if states else {})}

    def load_state_dict(self, state_dict: dict) -> None:
        self.iter = state_dict["iteration"]
        for name, state in state_dict.get("hooks", {}).items():
            hooks = [hook for hook in self._hooks if type(hook).__qualname__ == name]
            if not hooks:
                logger.warning("The checkpoint has a state for hook %s, which is not registered", name)
                continue
            next((hook for hook in hooks if hook.state_dict()), hooks[0]).load_state_dict(state)


class SimpleTrainer(TrainerBase):
    """One model, one optimizer, one loader of batches; the loss is the sum of what the model returns.

    Args:
        model: batch -> {name: scalar loss} or one scalar tensor; set to training mode.
        gather_metric_period: iterations between the records of metrics, which synchronise the processes.
        zero_grad_before_forward: otherwise gradients are cleared between forward and backward.
        async_write_metrics: record metrics in a thread, so that a GPU need not be waited for.
    """

    def __init__(
        self,
        model: nn.Module,
        data_loader: Iterable,
        optimizer: torch.optim.Optimizer,
        gather_metric_period: int = 1,
        zero_grad_before_forward: bool = False,
        async_write_metrics: bool = False,
    ):
        super().__init__()
        model.train()
        self.model = model
        self.data_loader = data_loader
        self.optimizer = optimizer
        self.gather_metric_period = gather_metric_period
        self.zero_grad_before_forward = zero_grad_before_forward
        self.async_write_metrics = async_write_metrics
        self._data_loader_iter_obj: Iterator | None = None
        self._executor = concurrent.futures.ThreadPoolExecutor(max_workers=1) if async_write_metrics else None
        self._pending: concurrent.futures.Future | None = None

    def run_step(self) -> None:
        batch, data_time = self._next_batch()
        if self.zero_grad_before_forward:
            self.optimizer.zero_grad()
        loss_dict, total_loss = self._forward(batch)
        if not self.zero_grad_before_forward:
            self.optimizer.zero_grad()
        total_loss.backward()
        self.after_backward()
        self._record(loss_dict, data_time)
        self.optimizer.step()

    def after_train(self) -> None:
        self._wait_for_metrics()
        super().after_train()

    def state_dict(self) -> dict:
        return {**super().state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state_dict: dict) -> None:
        super().load_state_dict(state_dict)
        self.optimizer.load_state_dict(state_dict["optimizer"])

    def reset_data_loader(self, data_loader_builder: Callable[[], Iterable]) -> None:
        """Go on with the loader that `data_loader_builder()` returns; the old one is let go first."""
        del self.data_loader
        self._data_loader_iter_obj = None
        self.data_loader = data_loader_builder()

    @property
    def _data_loader_iter(self) -> Iterator:
        if self._data_loader_iter_obj is None:
            self._data_loader_iter_obj = iter(self.data_loader)
        return self._data_loader_iter_obj

    def _next_batch(self) -> tuple[Any, float]:
        """(batch, seconds waited for it)."""
        assert self.model.training, f"[{type(self).__name__}] the model was changed to eval mode!"
        start = time.perf_counter()
        return next(self._data_loader_iter), time.perf_counter() - start

    def _forward(self, batch: Any) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """(losses by name, their sum)."""
        losses = self.model(batch)
        if isinstance(losses, torch.Tensor):
            return {"total_loss": losses}, losses
        return losses, sum(losses.values())

    def _record(self, loss_dict: dict[str, torch.Tensor], data_time: float) -> None:
        if self._executor is None:
            self._write_metrics(loss_dict, data_time)
            return
        self._wait_for_metrics()  # an exception of the previous record ends the run here
        self._pending = self._executor.submit(self._write_metrics, loss_dict, data_time, iter=self.iter)

    def _wait_for_metrics(self) -> None:
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def _write_metrics(
        self, loss_dict: dict[str, torch.Tensor], data_time: float, prefix: str = "", iter: int | None = None
    ) -> None:
        iter = self.iter if iter is None else iter
        if (iter + 1) % self.gather_metric_period == 0:
            self.write_metrics(loss_dict, iter, data_time, prefix)

    @staticmethod
    def write_metrics(loss_dict: dict[str, torch.Tensor], cur_iter: int, data_time: float, prefix: str = "") -> None:
        """Put the losses (mean over processes), their sum and the data time (slowest process) into the storage.

        Raises:
            FloatingPointError: on the main process, if the sum is not finite.
        """
        metrics = {name: value.detach().cpu().item() for name, value in loss_dict.items()}
        storage = get_event_storage()
        storage.put_scalar("rank_data_time", data_time, cur_iter=cur_iter)
        gathered = comm.gather({**metrics, "data_time": data_time})
        if not gathered:
            return
        storage.put_scalar("data_time", max(one.pop("data_time") for one in gathered), cur_iter=cur_iter)
        means = {name: sum(one[name] for one in gathered) / len(gathered) for name in metrics}
        total = sum(means.values())
        if not math.isfinite(total):
            raise FloatingPointError(f"Loss became infinite or NaN at iteration={cur_iter}!\nloss_dict = {means}")
        storage.put_scalar(f"{prefix}total_loss", total, cur_iter=cur_iter)
        if len(means) > 1:
            storage.put_scalars(cur_iter=cur_iter, **means)


class AMPTrainer(SimpleTrainer):
    """`SimpleTrainer` with automatic mixed precision on CUDA.

    Args:
        model, data_loader, optimizer, ..., async_write_metrics: see `SimpleTrainer`.
        grad_scaler: None makes a `torch.amp.GradScaler`.
        precision: dtype of the autocast region.
        log_grad_scaler: record the scale as "[metric]grad_scaler".

    Raises:
        AssertionError: in a step without CUDA.
    """

    def __init__(
        self,
        model: nn.Module,
        data_loader: Iterable,
        optimizer: torch.optim.Optimizer,
        gather_metric_period: int = 1,
        zero_grad_before_forward: bool = False,
        grad_scaler: torch.amp.GradScaler | None = None,
        precision: torch.dtype = torch.float16,
        log_grad_scaler: bool = False,
        async_write_metrics: bool = False,
    ):
        super().__init__(
            model, data_loader, optimizer, gather_metric_period, zero_grad_before_forward, async_write_metrics
        )
        self.grad_scaler = torch.amp.GradScaler("cuda") if grad_scaler is None else grad_scaler
        self.precision = precision
        self.log_grad_scaler = log_grad_scaler

    def run_step(self) -> None:
        assert torch.cuda.is_available(), f"[{type(self).__name__}] CUDA is required for AMP training!"
        batch, data_time = self._next_batch()
        if self.zero_grad_before_forward:
            self.optimizer.zero_grad()
        with torch.autocast("cuda", dtype=self.precision):
            loss_dict, total_loss = self._forward(batch)
        if not self.zero_grad_before_forward:
            self.optimizer.zero_grad()
        self.grad_scaler.scale(total_loss).backward()
        if self.log_grad_scaler:
            self.storage.put_scalar("[metric]grad_scaler", self.grad_scaler.get_scale())
        self.after_backward()
        self._record(loss_dict, data_time)
        self.grad_scaler.step(self.optimizer)
        self.grad_scaler.update()

    def state_dict(self) -> dict:
        return {**super().state_dict(), "grad_scaler": self.grad_scaler.state_dict()}

    def load_state_dict(self, state_dict: dict) -> None:
        super().load_state_dict(state_dict)
        self.grad_scaler.load_state_dict(state_dict["grad_scaler"])
