"""When is a checkpoint saved during a run, and which old ones go?"""

import os
import re
from typing import Any

from .detection_checkpoint import Checkpointer

__all__ = ["PeriodicCheckpointer"]


class PeriodicCheckpointer:
    """Saves `{prefix}_{iteration:07d}` every `period` iterations and `{prefix}_final` at the end.

    Args:
        period: 0 or less saves the final one only.
        max_iter: iterations in the run; None never saves a final one.
        max_to_keep: how many periodic files stay, those of earlier, resumed runs included; None keeps all.
    """

    def __init__(
        self,
        checkpointer: Checkpointer,
        period: int,
        max_iter: int | None = None,
        max_to_keep: int | None = None,
        file_prefix: str = "model",
    ):
        assert max_to_keep is None or max_to_keep > 0, f"max_to_keep must be positive or None, got {max_to_keep}"
        self.checkpointer = checkpointer
        self.period = int(period)
        self.max_iter = max_iter
        self.max_to_keep = max_to_keep
        self.file_prefix = file_prefix

    def step(self, iteration: int, **kwargs: Any) -> None:
        """Save what is due after `iteration` (from 0 on), with extra data `kwargs` and `iteration` itself."""
        iteration = int(iteration)
        extra = {"iteration": iteration, **kwargs}
        if self.period > 0 and (iteration + 1) % self.period == 0:
            self.checkpointer.save(f"{self.file_prefix}_{iteration:07d}", **extra)
            self._remove_old(iteration)
        if self.max_iter is not None and iteration >= self.max_iter - 1:
            self.checkpointer.save(f"{self.file_prefix}_final", **extra)

    def save(self, name: str, **kwargs: Any) -> None:
        """Save now, whatever the schedule says."""
        self.checkpointer.save(name, **kwargs)

    def _remove_old(self, newest: int) -> None:
        """Delete all but the `max_to_keep` latest files up to iteration `newest`; later ones are not this run's."""
        folder = self.checkpointer.save_dir
        if self.max_to_keep is None or not self.checkpointer.save_to_disk or not os.path.isdir(folder):
            return
        pattern = re.compile(re.escape(self.file_prefix) + r"_(\d{7,})\.pth")
        found = [match for match in map(pattern.fullmatch, os.listdir(folder)) if match]
        ours = sorted((match for match in found if int(match[1]) <= newest), key=lambda match: int(match[1]))
        for match in ours[: -self.max_to_keep]:
            os.remove(os.path.join(folder, match[0]))
