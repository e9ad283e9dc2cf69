"""Whose names does a state dict use, and what are timm's names for the same tensors?

Known layouts of a ViT: timm's own (alone, or inside a detector's checkpoint under any prefix), Meta's DINOv2
(`register_tokens`, `mlp.w12`, chunked blocks), and Hugging Face transformers' Dinov2 and Dinov2WithRegisters, in the
names of its files and in those of its modules. What timm itself converts on loading is left to timm.
"""

import re
import sys
from dataclasses import dataclass

import torch
from timm.models.vision_transformer import VisionTransformer
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
class Layout:
    """A state dict in timm's names, and whose names it had."""

    name: str
    state: State


def to_timm_names(state: State, vit: nn.Module, source: str) -> Layout:
    """Recognise the layout of `state` and rename it for the timm model `vit`; shapes stay as they are.

    Raises:
        WeightsError: no ViT in it, or more than one.
    """
    for kernel, convert in ((KERNEL, _from_patch_embed), (TRANSFORMERS_KERNEL, _from_transformers)):
        prefixes = [name.removesuffix(kernel) for name in state if name == kernel or name.endswith("." + kernel)]
        if prefixes:
            prefix = _choose_prefix(prefixes, source)
            inner = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
            return convert(inner, prefix, vit, source)
    return _by_timm(state, vit, source)


def _choose_prefix(prefixes: list[str], source: str) -> str:
    if len(prefixes) > 1:
        prefixes = [prefix for prefix in prefixes if "teacher" in prefix] or prefixes
    if len(prefixes) > 1:
        raise WeightsError(f"{source} holds several ViTs, under {', '.join(map(repr, prefixes))}; keep one of them")
    return prefixes[0]


def _from_patch_embed(state: State, prefix: str, vit: nn.Module, source: str) -> Layout:
    """Meta's and timm's names differ in little; timm's filter knows what other projects call theirs."""
    where = f" inside a checkpoint, under {prefix!r}" if prefix else ""
    if isinstance(vit, VisionTransformer) and _is_meta_dinov2(state):
        return Layout(f"Meta DINOv2{where}", _from_meta(state))
    if set(vit.state_dict()) <= set(state):
        return Layout(f"timm{where}", dict(state))
    return _by_timm(state, vit, source)


def _is_meta_dinov2(state: State) -> bool:
    chunked = any(re.match(r"blocks\.\d+\.\d+\.", name) for name in state)
    return chunked or bool({"register_tokens", "mask_token", "blocks.0.mlp.w12.weight"} & set(state))


def _from_meta(state: State) -> State:
    """Meta's DINOv2 -> timm: registers, SwiGLU and chunked blocks renamed, the mask token left out."""
    names = {"register_tokens": "reg_token"}
    converted = {}
    for name, value in state.items():
        name = re.sub(r"^blocks\.\d+\.(\d+)\.", r"blocks.\1.", names.get(name, name))  # blocks.CHUNK.BLOCK.
        converted[name.replace(".mlp.w12.", ".mlp.fc1.").replace(".mlp.w3.", ".mlp.fc2.")] = value
    converted.pop("mask_token", None)
    return converted


def _from_transformers(state: State, prefix: str, vit: nn.Module, source: str) -> Layout:
    """transformers' Dinov2 -> timm: names by table, then query, key and value joined."""
    renamed = {}
    for name, value in state.items():
        for pattern, name_in_timm in TRANSFORMERS_NAMES:
            name = re.sub(pattern, name_in_timm, name)
        renamed[name] = value
    kind = "Dinov2WithRegisters" if "register_tokens" in renamed else "Dinov2"
    return Layout(f"transformers {kind}", _from_meta(_join(renamed, source)))


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


def _by_timm(state: State, vit: nn.Module, source: str) -> Layout:
    """What timm's own filter for this family makes of it: CLIP, EVA, Meta's DINOv3 and others.

    Kernel and positions are kept out of its hands where their names are known already, since it resamples them.
    """
    kept = {name: state[name] for name in (KERNEL, "pos_embed") if name in state}
    convert = getattr(sys.modules[type(vit).__module__], "checkpoint_filter_fn", None)
    try:
        converted = convert({name: value for name, value in state.items() if name not in kept}, vit) | kept
    except Exception as error:
        raise WeightsError(f"{source} holds no ViT of a known layout: {_first(state)} ({one_line(error)})") from error
    if KERNEL not in converted:
        raise WeightsError(f"{source} holds no ViT of a known layout: {_first(state)}")
    return Layout("as timm converts it", converted)


def _first(state: State, limit: int = 5) -> str:
    return "its names begin with " + ", ".join(list(state)[:limit])
