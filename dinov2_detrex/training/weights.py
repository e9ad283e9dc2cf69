"""What does a file give a detector: all of its weights, or as much as fits? Read here for training and for predicting.

A file may call its weights as the model does, or put one prefix before every name, as wrappers of a model do
("module.", "_orig_mod.", "model."): a prefix under which more names agree is taken off.
"""

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from detectron2.checkpoint import DetectionCheckpointer
from torch import Tensor, nn

from dinov2_detrex.runtime.downloads import local_file
from dinov2_detrex.runtime.errors import UserError, one_line
from dinov2_detrex.runtime.packages import read_checkpoint, weights_path

logger = logging.getLogger(__name__)

AVERAGED = ("ema_state", "model_ema", "state_dict_ema", "ema")  # where programs put the averaged weights
ASK_FOR_AVERAGED = "train.model_ema.use_ema_weights_for_eval_only=true"
COMPILED = "_orig_mod."  # what torch.compile puts into the names of what it wraps, anywhere
MATCH_ENDINGS = "matching_heuristics=True"  # after a path, of detectron2
CONSTANTS = {"pixel_mean", "pixel_std"}  # of the config; many files hold them, many do not


class WeightsDoNotFit(UserError):
    """The file is of another model: the message says how many weights would be missing, and names one."""


class NoAveragedWeights(UserError):
    """The file holds no average of the weights, and that was asked for."""


def load_all(model: nn.Module, path: str, averaged: bool = False) -> dict[str, Any]:
    """Give a model all of its weights.

    Args:
        model: to load into.
        path: a file of any form that `runtime.files` reads, a model package, an URL, or known://NAME.
        averaged: take the file's averaged weights (`ema_state`). Without it they are left alone, and the log says so.

    Returns:
        what else the file holds, e.g. {"metadata": ...}.

    Raises:
        WeightsDoNotFit: a weight of the model would stay as it was built, or one of the file has no place in a part of
            the model. The model may hold some of the file's weights by then.
        UserError: the file is missing, damaged or no checkpoint, or holds no averaged weights.
    """
    path = _file_of(path)
    return _load(_WholeCheckpointer(model, path, averaged), path)


def load_content(model: nn.Module, content: Mapping[str, Any], averaged: bool = False) -> dict[str, Any]:
    """`load_all` of what has been read already: the content of a checkpoint, or a state dict alone."""
    source = "the state dict"
    content = dict(content) if isinstance(content.get("model"), Mapping) else {"model": content}
    state = choose_weights(content, source, averaged)
    checkpointer = _WholeCheckpointer(model, source, averaged)
    checkpointer._load_model({"model": with_names_of(state, model.state_dict(), source)})
    return {name: value for name, value in content.items() if name != "model"}


Fitting = Callable[[dict[str, Tensor], Mapping[str, Any]], Mapping[str, Tensor]]


def load_what_fits(model: nn.Module, path: str, fitting: Fitting | None = None) -> dict[str, Any]:
    """Give a model a part of its weights from a file; other arguments and result as of `load_all`.

    Args:
        fitting: (the file's weights, under the model's names where they have these; what else it holds) -> those for
            the model, under its names. None takes what agrees in name and shape, and so does a path with
            `?matching_heuristics=True`.

    Raises:
        WeightsDoNotFit: not one of them fits.
        UserError: see `load_all`.
    """
    path = _file_of(path)
    if fitting is None or MATCH_ENDINGS in path.partition("?")[2]:
        return _load(_Checkpointer(model, path), path)
    return _load(_PartialCheckpointer(model, path, fitting), path)


def _file_of(path: str) -> str:
    """The path with a package's weights in place of its folder, and the cached file in place of a known name."""
    local, mark, query = path.partition("?")
    local = local_file(local)
    return f"{local if '://' in local else weights_path(local)}{mark}{query}"


def _load(checkpointer: "_Checkpointer", path: str) -> dict[str, Any]:
    if "://" not in path and not Path(checkpointer.file_name).is_file():
        raise UserError(f"{path} does not exist; give a file or an URL")
    try:
        return checkpointer.load(path)
    except (WeightsDoNotFit, NoAveragedWeights):
        raise
    except Exception as error:  # downloads and foreign formats fail in many ways
        cause = str(error) if isinstance(error, UserError) else one_line(error)
        raise UserError(f"{path} cannot be loaded: {cause}") from error


class _Checkpointer(DetectionCheckpointer):
    """Reads files as `runtime.files` does, whichever engine serves detectron2, and refuses those of which nothing fits.

    Args:
        model: to load into.
        path: of what will be loaded; after it, `?matching_heuristics=True` matches names by their endings.
        averaged: take the file's averaged weights.
    """

    def __init__(self, model: nn.Module, path: str, averaged: bool = False):
        super().__init__(model)
        self.path, self.averaged = path, averaged
        self.file_name, _, query = path.partition("?")
        self.by_suffix = MATCH_ENDINGS in query

    def _load_file(self, filename: str) -> dict[str, Any]:
        """{"model": state dict, ...} of a local file. fvcore's hook for other formats; detectron2's would unpickle."""
        content = read_checkpoint(filename, memory_map=True)
        state = choose_weights(content, self.path, self.averaged)
        if self.by_suffix:
            return content | {"model": dict(state), "matching_heuristics": True}
        return content | {"model": with_names_of(state, self.model.state_dict(), self.path)}

    def _load_model(self, checkpoint: dict[str, Any]):
        names = list(checkpoint["model"])
        incompatible = super()._load_model(checkpoint)
        self.check(Fit(self.model, names, incompatible))
        return incompatible

    def check(self, fit: "Fit") -> None:
        if fit.num_loaded == 0:
            raise self.nothing_fits(fit.num_in_file, fit.example_in_file)
        logger.info("%s: %d of the model's %d weights loaded", self.path, fit.num_loaded, fit.num_in_model)

    def nothing_fits(self, num_in_file: int, example: str) -> WeightsDoNotFit:
        hint = "weights of a ViT alone go to model.backbone.net.checkpoint_path"
        return WeightsDoNotFit(
            f"{self.path} is of another model than the config's: of its {num_in_file} weights none has a name "
            f"and shape of the model's, e.g. {example}; {hint}"
        )


class _PartialCheckpointer(_Checkpointer):
    """Loads what `fitting` makes of a file, which is said there and not by the engine."""

    def __init__(self, model: nn.Module, path: str, fitting: Fitting):
        super().__init__(model, path)
        self.fitting = fitting

    def _load_model(self, checkpoint: dict[str, Any]):
        state = {name: torch.as_tensor(value) for name, value in checkpoint.pop("model").items()}
        fitted = self.fitting(state, checkpoint)
        if not fitted:
            raise self.nothing_fits(len(state), next(iter(state), "nothing"))
        self.model.load_state_dict(fitted, strict=False)

    def _log_incompatible_keys(self, incompatible: Any) -> None:
        pass


class _WholeCheckpointer(_Checkpointer):
    """Refuses files that leave a weight of the model as it was built, or have more than a part of it can take."""

    def check(self, fit: "Fit") -> None:
        problems = []
        if fit.missing:
            problems.append(
                f"{len(fit.missing)} of {fit.num_in_model} weights would stay random, e.g. {fit.missing[0]}"
            )
        if fit.foreign:
            problems.append(f"the model has no place for {len(fit.foreign)} of the file's, e.g. {fit.foreign[0]}")
        if problems:
            raise WeightsDoNotFit(
                f"{self.path} is of another model than the config's: {'; '.join(problems)}; "
                "use the config.yaml of the run that wrote it"
            )
        super().check(fit)


class Fit:
    """How far a state dict filled a model.

    Args:
        model: that it was loaded into.
        names: of the state dict.
        incompatible: what fvcore's checkpointer said of it.

    Attributes:
        missing: weights of the model that the state dict has not, or in another shape, which is told.
        foreign: names in the state dict that belong to a part of the model, which has no such weight.
        num_in_file, num_in_model, num_loaded: weights; one that the model has under two names counts once.
        example_in_file: a name of the state dict, "nothing" where it is empty.
    """

    def __init__(self, model: nn.Module, names: Sequence[str], incompatible: Any):
        own = {name: value for name, value in model.state_dict(keep_vars=True).items() if name not in CONSTANTS}
        shapes = {
            name: f", {tuple(given)} in it and {tuple(has)} in the model"
            for name, given, has in incompatible.incorrect_shapes
        }
        absent = {*incompatible.missing_keys, *shapes}
        loaded = {id(value) for name, value in own.items() if name not in absent}
        first_names: dict[int, str] = {}
        for name, value in own.items():
            first_names.setdefault(id(value), name)
        self.missing = [name + shapes.get(name, "") for key, name in first_names.items() if key not in loaded]
        parts = {name.partition(".")[0] for name in own}
        self.foreign = [name for name in incompatible.unexpected_keys if name.partition(".")[0] in parts]
        self.num_in_file, self.num_in_model, self.num_loaded = len(names), len(first_names), len(loaded)
        self.example_in_file = next(iter(names), "nothing")


def choose_weights(content: Mapping[str, Any], source: str, averaged: bool) -> Mapping[str, Any]:
    """The weights that are asked for, of a file that may hold plain and averaged ones; the log says which.

    Args:
        content: of the file, the plain weights under "model".
        source: of what file, for messages.
        averaged: take the averaged ones.

    Raises:
        NoAveragedWeights: they are not there.
    """
    average = next((content[key] for key in AVERAGED if isinstance(content.get(key), Mapping)), None)
    if averaged and average is None:
        raise NoAveragedWeights(f"{source} holds no averaged weights (ema_state); leave out {ASK_FOR_AVERAGED}")
    if average is None:
        return content["model"]
    if averaged:
        logger.info("%s: taking the averaged weights", source)
        return average
    logger.warning("%s: taking the plain weights, not the averaged ones (%s)", source, ASK_FOR_AVERAGED)
    return content["model"]


def with_names_of(state: Mapping[str, Any], names: Mapping[str, Any], source: str) -> dict[str, Any]:
    """The state dict without the prefix that keeps its names from being the model's.

    Args:
        state: of a file.
        names: the model's.
        source: of what file, for the log.

    Returns:
        `state` with the prefix taken off the names that have it; the others stay as they are.
    """
    state = {name.replace(COMPILED, ""): value for name, value in state.items()}
    prefixes = Counter({"": sum(name in names for name in state)})
    for name in state:
        parts = name.split(".")
        candidates = (".".join(parts[:i]) + "." for i in range(1, len(parts)))
        prefixes.update(prefix for prefix in candidates if name.removeprefix(prefix) in names)
    prefix, _ = prefixes.most_common(1)[0]  # of equals the first: none
    if prefix:
        logger.info("%s: the prefix %r was taken off the names of its weights", source, prefix)
    return {name.removeprefix(prefix): value for name, value in state.items()}
