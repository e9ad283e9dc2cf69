"""Which parameters learn at which rate, and how the rate moves over a run."""

from .build import get_default_optimizer_params
from .lr_scheduler import LRScheduler, WarmupParamScheduler

__all__ = ["LRScheduler", "WarmupParamScheduler", "get_default_optimizer_params"]
