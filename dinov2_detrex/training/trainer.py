"""One iteration of training, and the loop around it, for either engine.

iteration = read the images, seed, forward and backward by micro-batches, clip, look at the numbers, step.
"""

import logging
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.distributed as dist
from detectron2.engine import HookBase, TrainerBase
from detectron2.utils import comm
from detectron2.utils.events import EventStorage, get_event_storage
from torch import nn

from dinov2_detrex.config.train_options import DivergenceOptions, WeightBy
from dinov2_detrex.runtime.seeding import STEP, derive_seed, seed_generators
from dinov2_detrex.training import parallel
from dinov2_detrex.training.errors import TrainingDiverged
from dinov2_detrex.training.precision import Precision

logger = logging.getLogger(__name__)

MIN_HISTORY = 20  # iterations before a loss can be called exploding


class TrainerHook(HookBase):
    """A hook that asks for what this project's trainer has beside detectron2's."""

    trainer: Any  # a `Trainer`, once it is registered


class Trainer(TrainerBase):
    """Trains a model that maps a batch to a dictionary of losses.

    Args:
        model: possibly wrapped (DDP, FSDP); in training mode from here on.
        loader: endless; each item is one micro-batch of an iteration: a list of model inputs.
        optimizer: of the model's parameters.
        precision: autocast and gradient scaling; None is fp32.
        clip_gradients: called with the parameters that have gradients, returns their norm; None does not clip.
        micro_batches: items of `loader` that make one iteration (gradient accumulation).
        weight_by: what the losses are averaged over; decides how much each micro-batch counts.
        seed: of the run; iteration i draws its random numbers from (seed, i, process).
        divergence: when a rising loss ends the run.
    """

    def __init__(
        self,
        model: nn.Module,
        loader: Iterable[list[dict]],
        optimizer: torch.optim.Optimizer,
        *,
        precision: Precision | None = None,
        clip_gradients: Callable | None = None,
        micro_batches: int = 1,
        weight_by: WeightBy = WeightBy.boxes,
        seed: int = 0,
        divergence: DivergenceOptions | None = None,
    ):
        super().__init__()
        self.model, self.loader, self.optimizer = model.train(), loader, optimizer
        self.precision = precision or Precision(next(model.parameters()).device)
        self.clip_gradients, self.seed = clip_gradients, seed
        self.micro_batches, self.weight_by = micro_batches, weight_by
        divergence = divergence or DivergenceOptions()
        self.divergence_factor, self._recent_losses = divergence.factor, deque(maxlen=divergence.window)
        self.hooks: list[Any] = []  # those with a state have `load_state_dict` beside what HookBase has
        self.completed = 0  # iterations of the run, those before a resume included
        self.finished = False  # True once the last iteration is done, or after `stop`
        self._stop = False
        self._batches = None

    def register_hooks(self, hooks) -> None:
        """Hooks run in the order of registration; None entries are skipped."""
        hooks = [hook for hook in hooks if hook is not None]
        super().register_hooks(hooks)
        self.hooks += hooks

    def stop(self) -> None:
        """End the run after the present iteration, as if it were the last."""
        self._stop = True

    def train(self, start_iter: int, max_iter: int) -> None:
        """Run iterations `start_iter` to `max_iter` - 1; `after_train` runs in any case, with `finished` set or not."""
        logger.info("training from iteration %d to %d", start_iter, max_iter)
        self.iter, self.start_iter, self.max_iter, self.completed = start_iter, start_iter, max_iter, start_iter
        with EventStorage(start_iter) as self.storage:
            try:
                self._call_hooks("before_train")
                while self.iter < max_iter and not self._stop:
                    self.storage.iter = self.iter
                    self._call_hooks("before_step")
                    self.run_step()
                    self.completed = self.iter + 1
                    self._call_hooks("after_step")
                    self.iter += 1
                self.finished = True
            finally:
                self.storage.iter = self.iter
                self._call_hooks("after_train")

    def run_step(self) -> None:
        """One optimizer step."""
        if self._batches is None:
            self._batches = iter(self.loader)
        start = time.perf_counter()
        batches = [next(self._batches) for _ in range(self.micro_batches)]
        data_time = time.perf_counter() - start
        seed_generators(derive_seed(STEP, self.seed, self.iter, comm.get_rank()))
        self.optimizer.zero_grad(set_to_none=True)
        losses = self._forward_backward(batches)
        self._call_hooks("after_backward")
        norms = self._clip()
        self._record(losses | norms, data_time, batches)
        self.precision.scaler.step(self.optimizer)
        self.precision.scaler.update()

    def _forward_backward(self, batches: list[list[dict]]) -> dict[str, torch.Tensor]:
        """Gradients of the whole batch, and its losses: each micro-batch counts by its share of what they average."""
        total: dict[str, torch.Tensor] = {}
        for number, (batch, weight) in enumerate(zip(batches, self._micro_batch_weights(batches)), start=1):
            with parallel.gradient_sync(self.model, number == self.micro_batches):
                with self.precision.autocast():
                    losses = self._losses(batch)
                losses = losses if isinstance(losses, dict) else {"total_loss": losses}
                losses = {name: value * weight for name, value in losses.items()} if self.micro_batches > 1 else losses
                self.precision.scaler.scale(_sum(losses)).backward()
            for name, value in losses.items():
                total[name] = total.get(name, 0) + value.detach()
        return total

    def _losses(self, batch: list[dict]):
        try:
            return self.model(batch)
        except FloatingPointError as error:  # a detector that cannot match NaN to objects says so before any loss
            names = ", ".join(image.get("file_name", "?") for image in batch)
            raise TrainingDiverged(f"iteration {self.iter}: {error}; images: {names}") from error

    def _micro_batch_weights(self, batches: list[list[dict]]) -> list[float]:
        if self.micro_batches == 1 or self.weight_by == WeightBy.images:
            return [1 / self.micro_batches] * self.micro_batches
        counts = torch.tensor(
            [sum(len(image.get("instances", ())) for image in batch) for batch in batches], dtype=torch.float
        )
        if comm.get_world_size() > 1:
            counts = counts.to(self.precision.device)
            dist.all_reduce(counts)
            counts = counts.cpu() / comm.get_world_size()
        # DETR's losses are sums over boxes divided by max(boxes, 1): undo each divisor, apply the whole batch's
        return (counts.clamp(min=1) / counts.sum().clamp(min=1)).tolist()

    def _clip(self) -> dict[str, torch.Tensor]:
        if self.clip_gradients is None:
            return {}
        self.precision.scaler.unscale_(self.optimizer)
        norm = self.clip_gradients([p for p in self.model.parameters() if p.grad is not None])
        return {"grad_norm": parallel.full_tensor(norm)}

    def _record(self, values: dict[str, torch.Tensor], data_time: float, batches: list[list[dict]]) -> None:
        """Write the iteration's numbers, means over the processes, and end the run where they are beyond repair."""
        names = sorted(values)
        device = self.precision.device
        own = torch.stack([values[name].to(device, torch.float32).detach() for name in names])
        own = torch.cat([own, own.new_tensor([data_time])])
        table = _gather_rows(own).tolist()  # the one transfer of an iteration: (processes, values)
        scalars = {name: statistics.fmean(row[i] for row in table) for i, name in enumerate(names)}
        norm = scalars.pop("grad_norm", None)
        total = sum(scalars.values())
        self._check(total, norm, scalars, batches)
        times = {"rank_data_time": data_time, "data_time": max(row[-1] for row in table)}
        metrics = {} if norm is None else {"[metric]grad_norm": norm}
        for name, value in (scalars | {"total_loss": total} | times | metrics).items():
            get_event_storage().put_scalar(name, value)

    def _check(self, total: float, norm: float | None, losses: dict[str, float], batches) -> None:
        scaled = self.precision.scaler.is_enabled()  # then steps with infinite gradients are skipped
        finite = total - total == 0 and (scaled or norm is None or norm - norm == 0)
        median = statistics.median(self._recent_losses) if len(self._recent_losses) >= MIN_HISTORY else None
        exploded = median is not None and total > self.divergence_factor * max(median, 1e-8)
        self._recent_losses.append(total)
        if finite and not exploded:
            return
        names = comm.all_gather([image.get("file_name", "?") for batch in batches for image in batch])
        what = f"{self.divergence_factor:g} times its median of {median:.4g}" if finite else "not finite"
        raise TrainingDiverged(
            f"iteration {self.iter}: the loss is {what}: {total:.4g} ({_shown(losses)}), gradient norm "
            f"{'not measured' if norm is None else format(norm, '.4g')}; images: {', '.join(sum(names, []))}"
        )

    def _call_hooks(self, moment: str) -> None:
        for hook in self.hooks:
            getattr(hook, moment)()

    def state_dict(self) -> dict:
        """What a checkpoint holds of the run, beside the weights. `iteration` is the last that was completed."""
        state = {
            "iteration": self.completed - 1,
            "seed": self.seed,
            "hooks": {type(hook).__qualname__: state for hook in self.hooks if (state := hook.state_dict())},
            "optimizer": parallel.full_state(self.optimizer.state_dict()),
        }
        scaler = self.precision.scaler
        return state | ({"grad_scaler": scaler.state_dict()} if scaler.is_enabled() else {})

    def load_state_dict(self, state: dict) -> None:
        """Restore the optimizer, the scaler and the hooks; call before `train`, after the hooks are registered."""
        parallel.load_optimizer(self.optimizer, state["optimizer"])
        if self.precision.scaler.is_enabled() and "grad_scaler" in state:
            self.precision.scaler.load_state_dict(state["grad_scaler"])
        for hook in self.hooks:
            if type(hook).__qualname__ in state.get("hooks", {}):
                hook.load_state_dict(state["hooks"][type(hook).__qualname__])


def _sum(losses: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.as_tensor(sum(losses.values()))


def _gather_rows(row: torch.Tensor) -> torch.Tensor:
    """(n,) of this process -> (processes, n)."""
    if comm.get_world_size() == 1:
        return row[None]
    rows = [torch.empty_like(row) for _ in range(comm.get_world_size())]
    dist.all_gather(rows, row)
    return torch.stack(rows)


def _shown(losses: dict[str, float], most: int = 6) -> str:
    worst = sorted(losses.items(), key=lambda pair: (pair[1] == pair[1], -pair[1]))  # NaN first, then the largest
    return ", ".join(f"{name} {value:.4g}" for name, value in worst[:most])
