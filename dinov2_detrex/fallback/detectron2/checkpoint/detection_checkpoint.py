"""How are model, optimizer and trainer saved, found again and loaded?

Built on fvcore's Checkpointer, which brings the forgiving `load_state_dict` and its grouped warnings.
"""

import logging
import os
from collections.abc import Iterable, Sequence
from typing import Any
from urllib.parse import parse_qs

from fvcore.common.checkpoint import Checkpointer as FvcoreCheckpointer
from torch import nn

from dinov2_detrex.runtime import files

from ..utils import comm
from ..utils.file_io import PathManager
from .key_matching import rename_by_suffix

__all__ = ["Checkpointer", "DetectionCheckpointer"]

logger = logging.getLogger(__name__)


class Checkpointer(FvcoreCheckpointer):
    """Saves and loads `{"model": ..., key: obj.state_dict(), ..., **extra}`.

    Args:
        model: a DDP or DP wrapper is taken off.
        save_dir: folder of the checkpoints and of `last_checkpoint`, which names the newest; "" never saves.
        save_to_disk: False never saves.
        checkpointables: objects with `state_dict` and `load_state_dict`, by key.
    """

    def __init__(self, model: nn.Module, save_dir: str = "", *, save_to_disk: bool = True, **checkpointables: Any):
        super().__init__(model, save_dir, save_to_disk=save_to_disk, **checkpointables)
        self.path_manager = PathManager

    def save(self, name: str, **kwargs: Any) -> None:
        """Write `<save_dir>/<name>.pth` with `kwargs` as extra data, then name it in `last_checkpoint`.

        A kill at any moment leaves the files of the last complete save.
        """
        basename = self.write(name, **kwargs)
        if basename:
            self.tag_last_checkpoint(basename)

    def write(self, name: str, **kwargs: Any) -> str:
        """`save` without touching `last_checkpoint`; returns the file's basename, "" where nothing is saved."""
        if not self.save_dir or not self.save_to_disk:
            return ""
        basename = f"{name}.pth"
        assert os.path.basename(basename) == basename, f"a checkpoint's name must not hold a folder: {name}"
        states = {key: obj.state_dict() for key, obj in self.checkpointables.items()}
        data = {"model": self.model.state_dict(), **states, **kwargs}
        path = os.path.join(self.save_dir, basename)
        self.logger.info("Saving checkpoint to %s", path)
        os.makedirs(self.save_dir, exist_ok=True)
        files.remove_unfinished(self.save_dir)
        files.write(path, data)
        return basename

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        files.write_text(os.path.join(self.save_dir, "last_checkpoint"), last_filename_basename)

    def load(self, path: str, checkpointables: Sequence[str] | None = None) -> dict[str, Any]:
        """Load the model, and the checkpointables that the file has.

        Args:
            path: file or URL; empty loads nothing.
            checkpointables: names to restrict the registered checkpointables to; None takes all.

        Returns:
            what is left of the file's content, e.g. {"iteration": 9}.

        Raises:
            AssertionError: there is no such file.
            dinov2_detrex.runtime.files.UnreadableFile: it is damaged, no checkpoint, or could run code.
            KeyError: `checkpointables` names what is not registered.
        """
        wanted = _known(self.checkpointables if checkpointables is None else checkpointables, self.checkpointables)
        if not path:
            self.logger.info("No checkpoint found. Initializing model from scratch")
            return {}
        self.logger.info("[Checkpointer] Loading from %s ...", path)
        checkpoint = self._read(path)
        self._log_incompatible_keys(self._load_model(checkpoint))
        for key in wanted:
            if key in checkpoint:
                self.logger.info("Loading %s from %s ...", key, path)
                self.checkpointables[key].load_state_dict(checkpoint.pop(key))
        return checkpoint

    def resume_or_load(self, path: str, *, resume: bool = True) -> dict[str, Any]:
        """Continue from the newest checkpoint in `save_dir` if asked and there is one, else load `path`'s model alone.

        Raises:
            AssertionError: `last_checkpoint` names a file that is gone.
        """
        if not (resume and self.has_checkpoint()):
            return self.load(path, checkpointables=[])
        newest = self.get_checkpoint_file()
        tag = os.path.join(self.save_dir, "last_checkpoint")
        assert os.path.isfile(newest), f"{tag} names {newest}, which does not exist; put it back or delete {tag}"
        return self.load(newest)

    def _read(self, path: str) -> dict[str, Any]:
        local_path = path if os.path.isfile(path) else self.path_manager.get_local_path(path)
        assert os.path.isfile(local_path), f"Checkpoint {path} not found!"
        return self._load_file(local_path)

    def _load_file(self, f: str) -> dict[str, Any]:
        """{"model": state dict, ...} of a local file, tensors on the CPU; for subclasses to override, as in fvcore."""
        return files.read_checkpoint(f)


class DetectionCheckpointer(Checkpointer):
    """`Checkpointer` that saves on the main process only and can match keys by their endings.

    `file.pth?matching_heuristics=True` loads each parameter from the longest key that its name ends with.
    """

    def __init__(
        self, model: nn.Module, save_dir: str = "", *, save_to_disk: bool | None = None, **checkpointables: Any
    ):
        save_to_disk = comm.is_main_process() if save_to_disk is None else save_to_disk
        super().__init__(model, save_dir, save_to_disk=save_to_disk, **checkpointables)

    def _read(self, path: str) -> dict[str, Any]:
        path, heuristics = _split_query(path)
        checkpoint = super()._read(path)
        if heuristics or checkpoint.pop("matching_heuristics", False):
            checkpoint["model"] = rename_by_suffix(checkpoint["model"], self.model.state_dict())
        return checkpoint

    def _load_model(self, checkpoint: dict[str, Any]):
        incompatible = super()._load_model(checkpoint)
        for buffer in {"pixel_mean", "pixel_std"} & dict(self.model.named_buffers(recurse=False)).keys():
            if buffer in incompatible.missing_keys:  # constants of the config, which many files do not hold
                incompatible.missing_keys.remove(buffer)
        return incompatible


def _known(names: Iterable[str], registered: dict[str, Any]) -> list[str]:
    unknown = [name for name in names if name not in registered]
    if unknown:
        raise KeyError(f"{unknown} are no checkpointables; registered: {list(registered)}")
    return list(names)


def _split_query(path: str) -> tuple[str, bool]:
    """(path, whether `?matching_heuristics=True` follows it)."""
    if not path or "?" not in path or os.path.isfile(path):
        return path, False
    path, _, text = path.partition("?")
    query = parse_qs(text)
    heuristics = query.pop("matching_heuristics", ["False"]) == ["True"]
    if query:
        raise ValueError(f"unknown query {text!r} after {path}: only matching_heuristics=True is known")
    return path, heuristics
