"""Which weights does a run start from? Those of `train.init_checkpoint`, as far as they mean the same in its model."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from detectron2.checkpoint import DetectionCheckpointer
from torch import nn

from dinov2_detrex.runtime.errors import UserError, one_line
from dinov2_detrex.runtime.packages import read_checkpoint, weights_path

logger = logging.getLogger(__name__)


def load_init_checkpoint(model: nn.Module, path: str, classes: Callable[[], Sequence[str]] = list) -> dict:
    """Start from the weights in `path`, as far as names and shapes agree.

    Args:
        model: its attribute `class_dependent`, if it has one, names the submodules with a row for each class.
        path: a file, a model package, an URL, or "" for none.
        classes: gives the names, in order, of the classes that the model is to be trained on. Where the file was
            trained on others, even as many, the class-sized submodules stay as they were built, since their rows
            would stand for the wrong classes. Without names, as for evaluation, everything that fits is loaded.

    Returns:
        what else the file holds, e.g. {"metadata": ...}.

    Raises:
        UserError: the file is missing, damaged, or not a checkpoint.
    """
    local, _, query = path.partition("?")
    if path and "://" not in path and not Path(local).is_file():
        if not Path(local).is_dir():
            raise UserError(f"train.init_checkpoint={path} does not exist; give a file, an URL, or '' for none")
        path = str(weights_path(local)) + path[len(local) :]
    as_built = class_dependent_weights(model)
    try:
        rest = _SafeCheckpointer(model, "matching_heuristics=True" in query).load(path) if path else {}
    except Exception as error:  # downloads and foreign formats fail in many ways
        cause = str(error) if isinstance(error, UserError) else one_line(error)
        raise UserError(f"train.init_checkpoint={path} cannot be loaded: {cause}") from error
    before = list((rest.get("metadata") or {}).get("thing_classes") or [])
    now = list(classes()) if before else []
    if now and now != before:
        _keep_as_built(model, as_built, f"{path} was trained on the classes {_shown(before)}, not {_shown(now)}")
    return rest


class _SafeCheckpointer(DetectionCheckpointer):
    """Reads files as `runtime.files` does, whichever engine serves detectron2.

    Args:
        model: to load into.
        by_suffix: match names by their endings, as `?matching_heuristics=True` after a path asks for.
    """

    def __init__(self, model: nn.Module, by_suffix: bool):
        super().__init__(model)
        self.by_suffix = by_suffix

    def _load_file(self, filename: str) -> dict:
        """{"model": state dict, ...} of a local file. fvcore's hook for other formats; detectron2's would unpickle."""
        content = read_checkpoint(filename, memory_map=True)
        return content | {"matching_heuristics": True} if self.by_suffix else content


def class_dependent_weights(model: nn.Module) -> dict[str, torch.Tensor]:
    """Copies of the entries of the state dict that belong to the submodules in `model.class_dependent`."""
    prefixes = tuple(f"{name}." for name in getattr(model, "class_dependent", ()))
    return {name: value.clone() for name, value in model.state_dict().items() if name.startswith(prefixes)}


def _keep_as_built(model: nn.Module, as_built: dict[str, torch.Tensor], why: str) -> None:
    if not as_built:
        logger.warning("%s; %s does not name its class-sized parts, so all was loaded", why, type(model).__name__)
        return
    model.load_state_dict(as_built, strict=False)
    logger.warning("%s: left out, and trained from scratch, are %s", why, ", ".join(as_built))


def _shown(classes: list[str], most: int = 5) -> str:
    more = f", ... ({len(classes)})" if len(classes) > most else ""
    return f"[{', '.join(classes[:most])}{more}]"
