"""How a training run is stepped and observed."""

from . import hooks
from .defaults import default_writers
from .hooks import IterationTimer, PeriodicWriter
from .train_loop import HookBase, TrainerBase

__all__ = ["HookBase", "IterationTimer", "PeriodicWriter", "TrainerBase", "default_writers", "hooks"]
