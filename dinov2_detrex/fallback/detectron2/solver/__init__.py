"""Which parameters learn at which rate, and how the rate moves over a run."""

from ..left_out import refuse
from .build import get_default_optimizer_params
from .lr_scheduler import LRMultiplier, LRScheduler, WarmupParamScheduler

__all__ = ["LRMultiplier", "LRScheduler", "WarmupParamScheduler", "get_default_optimizer_params"]
__getattr__ = refuse(
    __name__, "build_lr_scheduler", "build_optimizer", "WarmupCosineLR", "WarmupMultiStepLR", hint="they read a CfgNode"
)
