"""How do pretrained weights get into a backbone, and how is it made sure that they did?

Every source ends in one path: tensors -> timm's names -> the model's patch, grid and channels -> a strict load.
"""

import re
from typing import Any

import timm
import torch
from torch import nn

from dinov2_detrex.backbone.adapters import merged_state
from dinov2_detrex.backbone.resampling import Fit, fit_to_vit, times
from dinov2_detrex.backbone.timm_factory import architecture, build_features
from dinov2_detrex.backbone.vit_families import PlainViT, family_of
from dinov2_detrex.backbone.weight_files import WeightsError, one_line, read_tensors
from dinov2_detrex.backbone.weight_layouts import NamedState, to_timm_names

FITTED_LATER = ("in_chans", "out_indices", "norm_layer", "patch_size", "img_size", "drop_path_rate")


def load_vit(
    vit: PlainViT, state: dict[str, torch.Tensor], source: str, patch_resample: str = "pi", pos_mode: str = "hub"
) -> str:
    """Load a state dict of any known layout into a timm ViT.

    Args:
        vit: plain ViT of timm, possibly pruned to its first blocks.
        state: name -> tensor, in timm's, Meta's or transformers' names, under any prefix.
        source: file or model name, for the report and errors.
        patch_resample: "pi" or "bicubic", see `resampling.resample_kernel`.
        pos_mode: "hub" or "timm", see `position.resample_grid`.

    Returns:
        one line: source, layout, patch, grid, and what was resampled.

    Raises:
        WeightsError: something of the model would stay random, or does not fit.
    """
    state = merged_state(state)  # of a detector that was trained with adapters
    named = to_timm_names(state, vit, family_of(vit).layouts, source)
    _check_names(vit, named.state, source)
    same_grid = bool(named.prefix)  # a training checkpoint may be of a grid that is not square
    fit = fit_to_vit(named.state, vit, source, patch_resample, pos_mode, same_grid)
    _load_values(vit, fit.state, source)
    return _report(source, named, fit)


def _report(source: str, named: NamedState, fit: Fit) -> str:
    layout = f"{named.layout} inside a checkpoint, under {named.prefix!r}" if named.prefix else named.layout
    grid = f", grid {times(fit.grid_hw)}" if fit.grid_hw else ""
    changes = "; ".join(fit.changes) or "nothing resampled"
    return f"weights from {source} ({layout}, patch {times(fit.patch_hw)}{grid}): {changes}"


def _check_names(vit: PlainViT, state: dict[str, torch.Tensor], source: str) -> None:
    """The file has all that the model has, and no more but blocks, norms and heads that the backbone pruned."""
    own = vit.state_dict()
    missing = [name for name in own if name not in state]
    foreign = [name for name in state if name not in own and not _is_pruned(vit, name)]
    problems = [f"it lacks {_some(missing)}"] if missing else []
    problems += [f"the model has no {_some(foreign)}"] if foreign else []
    if problems:
        raise WeightsError(f"{source} does not fit the model: {'; '.join(problems)}")


def _load_values(vit: PlainViT, state: dict[str, torch.Tensor], source: str) -> None:
    own = vit.state_dict()
    misfits = [
        f"{name} is {times(state[name].shape)} in it, {times(value.shape)} in the model"
        for name, value in own.items()
        if state[name].shape != value.shape
    ]
    if misfits:
        raise WeightsError(f"{source} does not fit the model: {_some(misfits)}")
    vit.load_state_dict({name: state[name] for name in own})


def _is_pruned(vit: PlainViT, name: str) -> bool:
    """True for what a model may lack: heads, an unused final norm, blocks after the last one returned, mask tokens."""
    block = re.match(r"blocks\.(\d+)\.", name)
    if block:
        return len(vit.blocks) <= int(block.group(1)) < len(vit.feature_info)
    family = family_of(vit)
    return name.split(".")[0] in (*family.after_blocks, *family.optional)


def _some(items: list[str], limit: int = 3) -> str:
    more = f" and {len(items) - limit} more" if len(items) > limit else ""
    return ", ".join(items[:limit]) + more


def from_hub(model_name: str, options: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The state dict of timm's pretrained model at its native patch, size and channels, from timm's cache or the net.

    Args:
        model_name: timm's name.
        options: keywords of the backbone's model; those that change the tensors afterwards are left out.

    Raises:
        WeightsError: no such weights, or no way to get them.
    """
    options = {name: value for name, value in options.items() if name not in FITTED_LATER}
    try:
        return timm.create_model(model_name, pretrained=True, num_classes=0, **options).state_dict()
    except Exception as error:
        raise _no_download(model_name, error) from error


def _no_download(model_name: str, error: BaseException) -> WeightsError:
    return WeightsError(
        f"no pretrained weights for {model_name!r}: {one_line(error)}; give a local file with checkpoint_path=FILE, "
        "or pretrained=False for random weights"
    )


def rebuild_with_weights(model: nn.Module, model_name: str, options: dict[str, Any], path: str = "") -> nn.Module:
    """A feature extractor that is no plain ViT with the weights of a file, or without one with timm's pretrained ones.

    The file holds timm's names or a checkpoint of this backbone. timm renames the modules of such extractors, so timm
    itself loads a file in its names, strictly, before it does.

    Raises:
        WeightsError: no weights, or they do not fit.
    """
    if not path:
        try:
            return build_features(model_name, pretrained=True, **options)
        except Exception as error:
            raise _no_download(model_name, error.__cause__ or error) from error
    state = read_tensors(path)
    own = list(model.state_dict())
    prefix = next((name.removesuffix(own[0]) for name in state if name.endswith("timm_model." + own[0])), None)
    try:
        if prefix is None:
            return build_features(model_name, pretrained=True, **_with_state(model_name, options, state))
        model.load_state_dict({name: state[prefix + name] for name in own if prefix + name in state})
        return model
    except Exception as error:
        raise WeightsError(f"{path} does not fit {model_name!r}: {one_line(error.__cause__ or error)}") from error


def _with_state(model_name: str, options: dict[str, Any], state: dict[str, torch.Tensor]) -> dict[str, Any]:
    """Options that make timm load `state` without its classifier, and nothing but the whole of it."""
    pretrained_cfg = timm.get_pretrained_cfg(architecture(model_name))
    classifiers = (pretrained_cfg and pretrained_cfg.classifier) or ()
    classifiers = (classifiers,) if isinstance(classifiers, str) else tuple(classifiers)
    state = {name: value for name, value in state.items() if name.rpartition(".")[0] not in classifiers}
    overlay = {"state_dict": state, "classifier": None, "num_classes": 0}
    return {**options, "pretrained_cfg_overlay": {**options.get("pretrained_cfg_overlay", {}), **overlay}}
