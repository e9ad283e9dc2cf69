"""Whose names does a state dict use, and what are timm's names for the same tensors?

Known layouts of a ViT: timm's own (alone, or inside a detector's checkpoint under any prefix), Meta's DINOv2
(`register_tokens`, `mlp.w12`, chunked blocks), and Hugging Face transformers' Dinov2 and Dinov2WithRegisters, in the
names of its files and in those of its modules. What timm itself converts on loading is left to timm.
"""

import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from dinov2_detrex.backbone.weight_files import WeightsError, one_line

State = dict[str, torch.Tensor]
KERNEL = "patch_embed.proj.weight"
TRANSFORMERS_KERNEL = "embeddings.patch_embeddings.projection.weight"

TRANSFORMERS_NAMES = (  # pattern in transformers, name in timm
    (r"embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"embeddings\.position_embeddings$", "pos_embed"),
    (r"embeddings\.(cls_token|mask_token|register_tokens)$", r"\1"),
    (r"encoder\.layer\.(\d+)\.", r"blocks.\1."),
    (r"\.attention\.(?:output\.dense|o_proj)\.", ".attn.proj."),
    (r"\.attention\.attention\.(query|key|value)\.", r".attn.\1."),
    (r"\.attention\.([qkv])_proj\.", r".attn.\1."),
    (r"\.layer_scale([12])\.lambda1$", r".ls\1.gamma"),
    (r"\.mlp\.weights_in\.", ".mlp.w12."),
    (r"\.mlp\.(?:weights_out|down_proj)\.", ".mlp.w3."),
    (r"^layernorm\.", "norm."),
)
JOINED = {  # tensors that transformers keeps apart -> the one that DINOv2 has, in this order
    ".attn.query.": (".attn.qkv.", (".attn.query.", ".attn.key.", ".attn.value.")),
    ".attn.q.": (".attn.qkv.", (".attn.q.", ".attn.k.", ".attn.v.")),
    ".mlp.gate_proj.": (".mlp.w12.", (".mlp.gate_proj.", ".mlp.up_proj.")),
}


@dataclass(frozen=True)
class WeightLayout:
    """Whose names a state dict may use.

    Attributes:
        name: for the report.
        kernel: its name for the patch kernel; what stands before that in a file is the prefix of all names.
        recognise: (state without prefix, model) -> whether the names are this layout's.
        convert: (state without prefix, source for errors) -> the state in timm's names.
        in_checkpoints: a prefix tells of a training checkpoint; in other layouts it is one of their own.
    """

    name: str
    kernel: str
    recognise: Callable[[State, nn.Module], bool]
    convert: Callable[[State, str], State]
    in_checkpoints: bool = False


@dataclass(frozen=True)
class NamedState:
    """A state dict in timm's names, and where they come from.

    Attributes:
        layout: whose names it had, for the report.
        state: timm's name -> tensor.
        prefix: of its names inside a training checkpoint; "" for a file of weights alone.
    """

    layout: str
    state: State
    prefix: str = ""


def to_timm_names(state: State, vit: nn.Module, layouts: Sequence[WeightLayout], source: str) -> NamedState:
    """Recognise the layout of `state` and rename it for the timm model `vit`; shapes stay as they are.

    Args:
        state: name -> tensor, as read.
        vit: the model it is meant for.
        layouts: what to look for beside timm's own names, see `ViTFamily.layouts`.
        source: named in errors.

    Raises:
        WeightsError: no ViT in it, or more than one.
    """
    for layout in (*layouts, TIMM):
        prefix = _find_prefix(state, layout.kernel, source)
        inner = state if prefix is None else _without_prefix(state, prefix)
        if prefix is not None and layout.recognise(inner, vit):
            return NamedState(layout.name, layout.convert(inner, source), prefix if layout.in_checkpoints else "")
    prefix = _find_prefix(state, KERNEL, source)
    return NamedState("as timm converts it", _by_timm(_without_prefix(state, prefix or ""), vit, source))


def _find_prefix(state: State, kernel: str, source: str) -> str | None:
    """What stands before the name of the patch kernel; None where there is no such kernel."""
    prefixes = [name.removesuffix(kernel) for name in state if name == kernel or name.endswith("." + kernel)]
    if len(prefixes) > 1:
        prefixes = [prefix for prefix in prefixes if "teacher" in prefix] or prefixes
    if len(prefixes) > 1:
        raise WeightsError(f"{source} holds several ViTs, under {', '.join(map(repr, prefixes))}; keep one of them")
    return prefixes[0] if prefixes else None


def _without_prefix(state: State, prefix: str) -> State:
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def _has_all_names(state: State, vit: nn.Module) -> bool:
    return set(vit.state_dict()) <= set(state)


def _is_meta_dinov2(state: State, vit: nn.Module) -> bool:
    chunked = any(re.match(r"blocks\.\d+\.\d+\.", name) for name in state)
    return chunked or bool({"register_tokens", "mask_token", "blocks.0.mlp.w12.weight"} & set(state))


def _from_meta(state: State, source: str) -> State:
    """Meta's DINOv2 -> timm: registers, SwiGLU and chunked blocks renamed, the mask token left out."""
    names = {"register_tokens": "reg_token"}
    converted = {}
    for name, value in state.items():
        name = re.sub(r"^blocks\.\d+\.(\d+)\.", r"blocks.\1.", names.get(name, name))  # blocks.CHUNK.BLOCK.
        converted[name.replace(".mlp.w12.", ".mlp.fc1.").replace(".mlp.w3.", ".mlp.fc2.")] = value
    converted.pop("mask_token", None)
    return converted


def _from_transformers(state: State, source: str) -> State:
    """transformers' Dinov2 -> timm: names by table, then query, key and value joined."""
    renamed = {}
    for name, value in state.items():
        for pattern, name_in_timm in TRANSFORMERS_NAMES:
            name = re.sub(pattern, name_in_timm, name)
        renamed[name] = value
    return _from_meta(_join(renamed, source), source)


def _join(state: State, source: str) -> State:
    joined = dict(state)
    for first, (whole, parts) in JOINED.items():
        for name in [name for name in state if first in name]:
            names = [name.replace(first, part) for part in parts]
            missing = [part for part in names if part not in state]
            if missing:
                raise WeightsError(f"{source} has {name} but not {', '.join(missing)}")
            joined[name.replace(first, whole)] = torch.cat([joined.pop(part) for part in names])
    return joined


def _by_timm(state: State, vit: nn.Module, source: str) -> State:
    """What timm's own filter for this family makes of it: CLIP, EVA, Meta's DINOv3 and others.

    Kernel and positions are kept out of its hands where their names are known already, since it resamples them.
    """
    ready = {name: state[name] for name in (KERNEL, "pos_embed") if name in state}
    others = {name: value for name, value in state.items() if name not in ready}
    try:
        converted = sys.modules[type(vit).__module__].checkpoint_filter_fn(others, vit) | ready
    except Exception as error:
        raise WeightsError(f"{source} holds no ViT of a known layout: {_first(state)} ({one_line(error)})") from error
    if KERNEL not in converted:
        raise WeightsError(f"{source} holds no ViT of a known layout: {_first(state)}")
    return converted


def _first(state: State, limit: int = 5) -> str:
    return "its names begin with " + ", ".join(list(state)[:limit])


TIMM = WeightLayout("timm", KERNEL, _has_all_names, lambda state, source: dict(state), in_checkpoints=True)
META_DINOV2 = WeightLayout("Meta DINOv2", KERNEL, _is_meta_dinov2, _from_meta, in_checkpoints=True)
TRANSFORMERS_REGISTERS = WeightLayout(
    "transformers Dinov2WithRegisters",
    TRANSFORMERS_KERNEL,
    lambda state, vit: "embeddings.register_tokens" in state,
    _from_transformers,
)
TRANSFORMERS_DINOV2 = WeightLayout(
    "transformers Dinov2", TRANSFORMERS_KERNEL, lambda state, vit: True, _from_transformers
)
