"""A run on disk: written so that a kill at any moment leaves a usable file, read without running code from it.

Layout of a file, as detrex has it: {"model", "trainer": {"iteration", "optimizer", ...}, ["ema_state"], "iteration"},
and beside them "metadata" with the class names. `last_checkpoint` names the newest file.
"""

import logging
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from detectron2.engine import HookBase
from detectron2.utils import comm

from dinov2_detrex.runtime.files import UnreadableFile, read, remove_unfinished, write, write_text
from dinov2_detrex.training.errors import TrainingDiverged

if TYPE_CHECKING:
    from dinov2_detrex.training.trainer import Trainer

logger = logging.getLogger(__name__)

LAST = "last_checkpoint"


class RunCheckpoints:
    """The checkpoints of one run.

    Args:
        folder: where they lie.
        max_to_keep: periodic files that stay, those of earlier starts of the run included; None or 0 keeps all.
        prefix: of the periodic files.
    """

    def __init__(self, folder: str | os.PathLike, max_to_keep: int | None = None, prefix: str = "model"):
        self.folder, self.max_to_keep, self.prefix = Path(folder), max_to_keep or 0, prefix

    def periodic(self) -> list[Path]:
        """`{prefix}_{iteration:07d}.pth` files, oldest iteration first."""
        pattern = re.compile(rf"{re.escape(self.prefix)}_\d{{7,}}\.pth")
        files = self.folder.glob(f"{self.prefix}_*.pth") if self.folder.is_dir() else []
        return sorted((f for f in files if pattern.fullmatch(f.name)), key=lambda f: int(f.stem.rpartition("_")[2]))

    def save(self, name: str, content: dict) -> Path:
        """Write `{name}.pth`, make it the one that `load_newest` finds, and remove what is too old."""
        path = self.folder / f"{name}.pth"
        remove_unfinished(self.folder)  # of a process that was killed while it wrote
        write(path, content)
        write_text(self.folder / LAST, path.name)
        self._remove_old(path)
        return path

    def _remove_old(self, newest: Path) -> None:
        old = self.periodic()[: -self.max_to_keep] if self.max_to_keep > 0 else []
        for path in old:
            if path != newest:
                path.unlink(missing_ok=True)

    def newest(self) -> Path | None:
        """The file that `last_checkpoint` names; None where nothing was saved."""
        pointer = self.folder / LAST
        return self.folder / pointer.read_text().strip() if pointer.is_file() else None

    def load_newest(self) -> tuple[Path, dict] | None:
        """The newest file that can be read, trying older periodic ones where it cannot; None where nothing was saved.

        Raises:
            UnreadableFile: there are files, but none can be read.
        """
        candidates = [path for path in [self.newest()] if path is not None]
        candidates += [path for path in reversed(self.periodic()) if path not in candidates]
        failures = []
        for path in candidates:
            try:
                return path, read(path)
            except UnreadableFile as error:
                logger.warning("%s; trying the one before it", error)
                failures.append(error)
        if failures:
            raise UnreadableFile(f"nothing to resume from: {failures[0]}")
        return None


class PeriodicCheckpoint(HookBase):
    """Saves after every `period` iterations and, as `model_final`, after the last one.

    Args:
        checkpoints: where to; written by the main process alone.
        period: iterations; 0 or less saves the final one only.
        content: makes what is saved; called on every process, because sharded weights must be gathered.
    """

    trainer: "Trainer"

    def __init__(self, checkpoints: RunCheckpoints, period: int, content: Callable[[], dict]):
        self.checkpoints, self.period, self.content = checkpoints, period, content

    def after_step(self):
        done = self.trainer.completed
        if self.period > 0 and done % self.period == 0 and done < self.trainer.max_iter:
            self._save(f"{self.checkpoints.prefix}_{done - 1:07d}")

    def after_train(self):
        if self.trainer.finished:
            self._save(f"{self.checkpoints.prefix}_final")

    def _save(self, name: str) -> None:
        content = self.content()
        if comm.is_main_process():
            refuse_non_finite(content["model"], content["iteration"])
            logger.info("saved %s", self.checkpoints.save(name, content))


def refuse_non_finite(state: dict, iteration: int) -> None:
    """Keep broken weights from replacing good ones.

    Raises:
        TrainingDiverged: naming the first weight with NaN or infinity.
    """
    for name, value in state.items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise TrainingDiverged(f"weight {name!r} is not finite after iteration {iteration}; nothing was saved")
