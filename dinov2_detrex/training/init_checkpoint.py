"""Which weights does a run start from? Those of `train.init_checkpoint`, as far as they mean the same in its model."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from detectron2.checkpoint import DetectionCheckpointer
from torch import nn

from dinov2_detrex.training import checkpoint
from dinov2_detrex.training.errors import UserError

logger = logging.getLogger(__name__)


def load_init_checkpoint(model: nn.Module, path: str, classes: Callable[[], Sequence[str]] = list) -> dict:
    """Start from the weights in `path`, as far as names and shapes agree.

    Args:
        model: its attribute `class_sized`, if it has one, names the submodules with a row for each class.
        path: a file, an URL, or "" for none.
        classes: gives the names, in order, of the classes that the model is to be trained on. Where the file was
            trained on others, even as many, the class-sized submodules stay as they were built, since their rows
            would stand for the wrong classes. Without names, as for evaluation, everything that fits is loaded.

    Returns:
        what else the file holds, e.g. {"metadata": ...}.

    Raises:
        UserError: the file is missing, damaged, or not a checkpoint.
    """
    local = path.partition("?")[0]
    if path and "://" not in path and not Path(local).is_file():
        raise UserError(f"train.init_checkpoint={path} does not exist; give a file, an URL, or '' for none")
    if path and "://" not in path and Path(local).suffix == ".pth":
        checkpoint.read(local)  # damaged or unsafe files end here, with one line
    as_built = class_sized_weights(model)
    try:
        rest = DetectionCheckpointer(model).load(path) if path else {}
    except Exception as error:  # downloads and foreign formats fail in many ways
        cause = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(f"train.init_checkpoint={path} cannot be loaded: {cause}") from error
    before = list((rest.get("metadata") or {}).get("thing_classes") or [])
    now = list(classes()) if before else []
    if now and now != before:
        _keep_as_built(model, as_built, f"{path} was trained on the classes {_shown(before)}, not {_shown(now)}")
    return rest


def class_sized_weights(model: nn.Module) -> dict[str, torch.Tensor]:
    """Copies of the entries of the state dict that belong to the submodules in `model.class_sized`."""
    prefixes = tuple(f"{name}." for name in getattr(model, "class_sized", ()))
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
