"""Which weights does a run start from? Those of `train.init_checkpoint`, as far as they mean the same in its model."""

import contextlib
import logging
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from tabulate import tabulate
from torch import Tensor, nn

from dinov2_detrex.backbone.adapters import with_adapters_of
from dinov2_detrex.backbone.param_groups import part_of_model
from dinov2_detrex.data.registration import class_names_of
from dinov2_detrex.runtime.errors import UserError
from dinov2_detrex.runtime.known_weights import classes_of_known
from dinov2_detrex.training.transfer import Fate, Known, transfer
from dinov2_detrex.training.weights import CONSTANTS, MATCH_ENDINGS, load_what_fits

logger = logging.getLogger(__name__)

_OF_RCNN = re.compile(r"\b(box_predictor(\.\d+)?\.(cls_score|bbox_pred)|mask_head\.predictor)\.")  # in detectron2


def load_init_checkpoint(
    model: nn.Module,
    path: str,
    classes: Callable[[], Sequence[str]] = list,
    classes_of: str = "",
    levels: Sequence[int] = (),
) -> dict:
    """Start from the weights in `path`, as far as they mean the same; the log says in a table what was taken.

    Args:
        model: its attribute `class_dependent`, if it has one, names the submodules with a row for each class; those of
            detectron2's R-CNNs are known.
        path: a file, a model package, an URL, known://NAME, or "" for none.
        classes: gives the names, in order, of the classes that the model is to be trained on. Where the file was
            trained on others, even as many, the rows of those of the same name are taken, and the others stay as they
            were built. Without names, on one of the two sides, rows go by number where both have as many.
        classes_of: a registered data set whose classes are the file's, which does not name them itself; "" takes what
            the table of known files says.
        levels: see `train.init_levels`.

    Returns:
        what else the file holds, e.g. {"metadata": ...}.

    Raises:
        UserError: the file is missing, damaged, or not a checkpoint, or nothing in it fits; or `classes_of` or `levels`
            are not the file's.
    """
    if not path:
        return {}
    class_dependent = class_dependent_weights(model)

    def fitting(state: dict[str, Tensor], rest: Mapping[str, Any]) -> dict[str, Tensor]:
        state = dict(with_adapters_of(model.state_dict(), state))
        in_file = _classes_in_file(rest, classes_of, classes_of_known(path))
        known = Known(in_file, list(classes()) if in_file else (), list(levels), class_dependent.keys())
        fates = transfer(model, state, known)
        _report(path, state, fates, known)
        return {fate.name: fate.value for fate in fates if fate.value is not None}

    with naming_the_option():
        rest = load_what_fits(model, path, fitting)
    if MATCH_ENDINGS in path:
        _restore_other_classes(model, class_dependent, rest, classes)
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


def _classes_in_file(rest: Mapping[str, Any], classes_of: str, published: str = "") -> list[str]:
    """The names in the file, or of the data set that stands for them: the given one, or the published one."""
    named = list((rest.get("metadata") or {}).get("thing_classes") or [])
    if not classes_of:
        return named or (class_names_of(published) if published else [])
    known = class_names_of(classes_of)
    if not known:
        raise UserError(f"train.init_classes_of={classes_of} is no data set with known classes, as coco_2017_train is")
    if named and named != known:
        raise UserError(f"train.init_classes_of={classes_of}: the file names its classes itself, {_shown(named)}")
    return known


def _restore_other_classes(
    model: nn.Module, as_built: Mapping[str, Tensor], rest: Mapping[str, Any], classes: Callable[[], Sequence[str]]
) -> None:
    """Of what was matched by endings, leave out all that is for other classes."""
    before = _classes_in_file(rest, "")
    now = list(classes()) if before else []
    if now != before:
        model.load_state_dict(as_built, strict=False)
        logger.warning("trained on the classes %s, not %s: class rows stay as built", _shown(before), _shown(now))


# -------------------------------------------------------------------------------------------------------- the report


def _report(path: str, state: Mapping[str, Tensor], fates: Sequence[Fate], known: Known) -> None:
    """One entry of the log, as a warning where something is not as both sides have it."""
    fates = [fate for fate in fates if fate.name not in CONSTANTS]
    whole = sum(fate.value is not None and not fate.why for fate in fates)
    parts: dict[str, list[Fate]] = {}
    for fate in fates:
        parts.setdefault(_part(fate.name), []).append(fate)
    header = ("part", "weights", "taken", "in part", "as built", "why")
    lines = [f"{path}: {whole} of the model's {len(fates)} weights taken whole"]
    lines += [tabulate([_row(part, of_part) for part, of_part in parts.items()], header, disable_numparse=True)]
    lines += _about_classes(state, known)
    lines += _left_in_file(state, fates)
    logger.log(logging.INFO if whole == len(fates) else logging.WARNING, "\n".join(lines))


def _part(name: str) -> str:
    part = part_of_model(name)
    inner = name.split(".")[1:2]
    return f"transformer.{inner[0]}" if part == "transformer" and inner[0] in ("encoder", "decoder") else part


def _row(part: str, fates: Sequence[Fate]) -> tuple[str, ...]:
    taken = [fate for fate in fates if fate.value is not None]
    in_part = [fate for fate in taken if fate.why]
    reasons: dict[str, list[Fate]] = {}
    for fate in fates:
        if fate.why:
            reasons.setdefault(fate.why, []).append(fate)
    numbers = (len(fates), len(taken) - len(in_part), len(in_part), len(fates) - len(taken))
    return part, *map(str, numbers), "\n".join(_reason(why, of_it) for why, of_it in reasons.items())


def _reason(why: str, fates: Sequence[Fate]) -> str:
    first = fates[0]
    return f"{len(fates)} {why}, e.g. {first.name}{f' ({first.detail})' if first.detail else ''}"


def _about_classes(state: Mapping[str, Tensor], known: Known) -> list[str]:
    """How the rows of classes were taken; nothing where there are none, or they are the same on both sides."""
    sources = known.class_sources
    if not known.class_dependent & state.keys():
        unnamed = sources is not None and not known.class_dependent
        return ["classes: others, but the model does not name its class-sized parts: all went by number"] * unnamed
    if sources is not None:
        same = [name for name, source in zip(known.classes, sources) if source >= 0]
        others = [name for name, source in zip(known.classes, sources) if source < 0]
        text = f"classes: {len(same)} of {len(sources)} by name {_shown(same)}"
        return [f"{text}; as built {_shown(others)}" if others else text]
    if known.classes_in_file:
        return []
    advice = "if they are those of a known data set, say so: train.init_classes_of=coco_2017_train"
    return [f"classes: the file does not name its own, so rows go by number where both have as many; {advice}"]


def _left_in_file(state: Mapping[str, Tensor], fates: Sequence[Fate]) -> list[str]:
    """What the model has no place for."""
    used = {source for fate in fates for source in fate.sources}
    left = [name for name in state if name not in used and name not in CONSTANTS]
    if not left:
        return []
    parts = ", ".join(f"{part} {count}" for part, count in Counter(map(_part, left)).items())
    return [f"left in the file: {len(left)} weights ({parts}), e.g. {left[0]}"]


def _shown(names: Sequence[str], most: int = 5) -> str:
    more = f", ... ({len(names)})" if len(names) > most else ""
    return f"[{', '.join(names[:most])}{more}]"
