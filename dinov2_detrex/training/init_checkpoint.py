"""Which weights does a run start from? Those of `train.init_checkpoint`, as far as they mean the same in its model."""

import contextlib
import logging
import re
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import nn

from dinov2_detrex.runtime.errors import UserError
from dinov2_detrex.training.weights import load_what_fits

logger = logging.getLogger(__name__)

_OF_RCNN = re.compile(r"\b(box_predictor(\.\d+)?\.(cls_score|bbox_pred)|mask_head\.predictor)\.")  # in detectron2


def load_init_checkpoint(model: nn.Module, path: str, classes: Callable[[], Sequence[str]] = list) -> dict:
    """Start from the weights in `path`, as far as names and shapes agree.

    Args:
        model: its attribute `class_dependent`, if it has one, names the submodules with a row for each class; those of
            detectron2's R-CNNs are known.
        path: a file, a model package, an URL, or "" for none.
        classes: gives the names, in order, of the classes that the model is to be trained on. Where the file was
            trained on others, even as many, the class-sized submodules stay as they were built, since their rows
            would stand for the wrong classes. Without names, as for evaluation, everything that fits is loaded.

    Returns:
        what else the file holds, e.g. {"metadata": ...}.

    Raises:
        UserError: the file is missing, damaged, or not a checkpoint, or nothing in it fits.
    """
    if not path:
        return {}
    as_built = class_dependent_weights(model)
    with naming_the_option():
        rest = load_what_fits(model, path)
    before = list((rest.get("metadata") or {}).get("thing_classes") or [])
    now = list(classes()) if before else []
    if now and now != before:
        _keep_as_built(model, as_built, f"{path} was trained on the classes {_shown(before)}, not {_shown(now)}")
    return rest


@contextlib.contextmanager
def naming_the_option() -> Iterator[None]:
    """Errors in loading a checkpoint say that it is the one of `train.init_checkpoint`."""
    try:
        yield
    except UserError as error:
        raise UserError(f"train.init_checkpoint={error}") from error


def class_dependent_weights(model: nn.Module) -> dict[str, torch.Tensor]:
    """Copies of the entries of the state dict that have a row for each class: those of the submodules in
    `model.class_dependent`, and those of an R-CNN's heads but boxes that all classes share."""
    prefixes = tuple(f"{name}." for name in getattr(model, "class_dependent", ()))
    return {
        name: value.clone()
        for name, value in model.state_dict().items()
        if name.startswith(prefixes) or _OF_RCNN.search(name) and not ("bbox_pred" in name and len(value) == 4)
    }


def _keep_as_built(model: nn.Module, as_built: dict[str, torch.Tensor], why: str) -> None:
    if not as_built:
        logger.warning("%s; %s does not name its class-sized parts, so all was loaded", why, type(model).__name__)
        return
    model.load_state_dict(as_built, strict=False)
    logger.warning("%s: left out, and trained from scratch, are %s", why, ", ".join(as_built))


def _shown(classes: list[str], most: int = 5) -> str:
    more = f", ... ({len(classes)})" if len(classes) > most else ""
    return f"[{', '.join(classes[:most])}{more}]"
