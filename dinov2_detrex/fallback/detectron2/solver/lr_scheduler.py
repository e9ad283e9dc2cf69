"""How does the learning rate move over a run? By a factor that depends on the progress w in [0, 1] alone."""

from fvcore.common.param_scheduler import ParamScheduler
from torch.optim.lr_scheduler import LRScheduler

__all__ = ["LRScheduler", "WarmupParamScheduler"]

_ROUNDING = 1e-6  # progress is step / max_iter: a boundary that is missed by less has been reached


class WarmupParamScheduler(ParamScheduler):
    """Rises to another schedule over the first part of a run.

    Args:
        scheduler: the schedule after (and, by its values, the target of) the warm-up.
        warmup_factor: start value, as a factor on `scheduler(0)`.
        warmup_length: the part of the run in [0, 1] that warms up.
        warmup_method: "linear", or "constant" to stay at the start value.
        rescale_interval: let `scheduler` run its whole course after the warm-up, instead of joining it under way.

    Raises:
        ValueError: another method.
    """

    def __init__(
        self,
        scheduler: ParamScheduler,
        warmup_factor: float,
        warmup_length: float,
        warmup_method: str = "linear",
        rescale_interval: bool = False,
    ):
        if warmup_method not in ("linear", "constant"):
            raise ValueError(f"warmup_method must be 'linear' or 'constant', got {warmup_method!r}")
        self.scheduler = scheduler
        self.warmup_length = warmup_length
        self.rescale_interval = rescale_interval
        self.start_value = warmup_factor * scheduler(0.0)
        self.end_value = self._after(warmup_length) if warmup_method == "linear" else self.start_value

    def __call__(self, where: float) -> float:
        if where + _ROUNDING > self.warmup_length:
            return self._after(where)
        return self.start_value + (self.end_value - self.start_value) * where / self.warmup_length

    def _after(self, where: float) -> float:
        if not self.rescale_interval:
            return self.scheduler(where)
        if self.warmup_length >= 1:  # nothing is left for the schedule; this is the end of the warm-up
            return self.scheduler(0.0)
        return self.scheduler(max(where - self.warmup_length, 0.0) / (1 - self.warmup_length))
