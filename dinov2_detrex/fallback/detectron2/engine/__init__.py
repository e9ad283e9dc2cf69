"""How a training run is set up, launched, stepped and observed."""

from ..left_out import refuse
from .defaults import create_ddp_model, default_argument_parser, default_setup, default_writers
from .hooks import (
    BestCheckpointer,
    CallbackHook,
    EvalHook,
    IterationTimer,
    LRScheduler,
    PeriodicCheckpointer,
    PeriodicWriter,
)
from .launch import DEFAULT_TIMEOUT, launch
from .train_loop import AMPTrainer, HookBase, SimpleTrainer, TrainerBase

__all__ = [
    "AMPTrainer",
    "BestCheckpointer",
    "CallbackHook",
    "DEFAULT_TIMEOUT",
    "EvalHook",
    "HookBase",
    "IterationTimer",
    "LRScheduler",
    "PeriodicCheckpointer",
    "PeriodicWriter",
    "SimpleTrainer",
    "TrainerBase",
    "create_ddp_model",
    "default_argument_parser",
    "default_setup",
    "default_writers",
    "launch",
]
__getattr__ = refuse(
    __name__, "AutogradProfiler", "DefaultPredictor", "DefaultTrainer", "PreciseBN", "TorchMemoryStats", "TorchProfiler"
)
