"""An exponential moving average of the weights, with the names and the checkpoint layout of detrex's `EMAState`.

ema = decay * ema + (1 - decay) * value after every step, for floating-point parameters and buffers. Integer buffers are
copied. Frozen parameters do not move, so their average is the parameter itself and takes no memory or time.
"""

import contextlib
import math

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from dinov2_detrex.training.parallel import distribute_like, full_tensor, local_shard
from dinov2_detrex.training.trainer import TrainerHook


class ModelEMA:
    """The average of one model's weights.

    Args:
        model: the bare model (not wrapped by DDP); its current weights are the start.
        decay: between 0 and 1.
        device: where the average is kept; "" = beside each parameter.
    """

    def __init__(self, model: nn.Module, decay: float = 0.999, device: str = ""):
        self.model = model
        self._saved_buffers = {name for name, _ in model.named_buffers()} & model.state_dict(keep_vars=True).keys()
        self.decay = decay
        self._moving = {
            name: value.detach().to(device or value.device, copy=True) for name, value in self._moving_tensors().items()
        }

    def tensors(self) -> list[torch.Tensor]:
        """What the average takes memory for."""
        return list(self._moving.values())

    @torch.no_grad()
    def update(self, decay: float | None = None) -> None:
        """Take one step towards the model's present weights, with another decay than the average's own if given."""
        current = self._moving_tensors()
        floating = [name for name, value in self._moving.items() if value.is_floating_point()]
        for name in self._moving.keys() - set(floating):
            self._moving[name].copy_(current[name])
        if floating:
            averaged = [local_shard(self._moving[name]) for name in floating]
            values = [local_shard(current[name].detach()).to(ema.device) for name, ema in zip(floating, averaged)]
            get_ema_multi_avg_fn(self.decay if decay is None else decay)(averaged, values, 0)

    def state_dict(self) -> dict[str, torch.Tensor]:
        """name -> tensor for every parameter and saved buffer; a tensor under two names appears under the first."""
        tensors = self._all_tensors()
        return {name: full_tensor(self._moving.get(name, value.detach())) for name, value in tensors.items()}

    def model_state_dict(self) -> dict[str, torch.Tensor]:
        """The model's own state dict, every name of a shared tensor included, with the averaged values."""
        average: dict[int, torch.Tensor] = {
            id(value): self._moving.get(name, value.detach()) for name, value in self._all_tensors().items()
        }
        own: dict[str, torch.Tensor] = self.model.state_dict(keep_vars=True)
        return {name: full_tensor(average.get(id(value), own[name].detach())) for name, value in own.items()}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Take over a saved average, detrex's too.

        Raises:
            AssertionError: `state` lacks a weight of the model that is averaged.
        """
        missing = sorted(self._moving.keys() - state.keys())
        if missing:
            raise AssertionError(f"the saved ema_state lacks {len(missing)} weights of this model, e.g. {missing[0]!r}")
        for name, value in self._moving.items():
            value.copy_(distribute_like(state[name], value))

    @contextlib.contextmanager
    def applied(self):
        """Inside, the model carries the averaged weights; afterwards its own again, whatever happened."""
        saved = {name: value.detach().clone() for name, value in self._moving_tensors().items()}
        try:
            self._copy_in(self._moving)
            yield self.model
        finally:
            self._copy_in(saved)

    def apply(self) -> None:
        """Give the model the averaged weights for good."""
        self._copy_in(self._moving)

    @torch.no_grad()
    def _copy_in(self, values: dict[str, torch.Tensor]) -> None:
        current = self._moving_tensors()
        for name, value in values.items():
            current[name].copy_(value)

    def _all_tensors(self) -> dict[str, torch.Tensor]:
        """Parameters, then the buffers that a checkpoint holds, each tensor once."""
        buffers = {name: value for name, value in self.model.named_buffers() if name in self._saved_buffers}
        return {**dict(self.model.named_parameters()), **buffers}

    def _moving_tensors(self) -> dict[str, torch.Tensor]:
        """Those that training changes: not the frozen parameters."""
        return {
            name: value
            for name, value in self._all_tensors().items()
            if value.requires_grad or not isinstance(value, nn.Parameter)
        }


class EMAUpdate(TrainerHook):
    """Moves the average after every step.

    Args:
        ema: the average.
        warmup: iterations over which its decay grows, see `warmed_up`; 0 for none.
    """

    def __init__(self, ema: ModelEMA, warmup: int = 0):
        self.ema, self.warmup = ema, warmup

    def after_step(self):
        self.ema.update(warmed_up(self.ema.decay, self.trainer.completed, self.warmup))


def warmed_up(decay: float, steps: int, warmup: int) -> float:
    """The decay after so many steps of the run: decay (1 - exp(-steps / warmup)), from the steps alone."""
    return decay * -math.expm1(-steps / warmup) if warmup else decay
