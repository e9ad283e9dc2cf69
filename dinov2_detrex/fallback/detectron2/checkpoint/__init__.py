"""What a run keeps on disk, and how a model gets its weights back."""

from .detection_checkpoint import Checkpointer, DetectionCheckpointer
from .periodic import PeriodicCheckpointer

__all__ = ["Checkpointer", "DetectionCheckpointer", "PeriodicCheckpointer"]
