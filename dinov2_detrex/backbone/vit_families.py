"""Which plain ViTs of timm are there, and what must be known of each to walk, freeze and load it? One record a family.

A plain ViT cuts the image into patches once and keeps their width and number through blocks with one attention each.
To add a family, write its record and put it into `FAMILIES`: building, freezing, learning rates and loading read it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, cast

import torch
from timm.models.deit import VisionTransformerDistilled
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from dinov2_detrex.backbone.weight_layouts import META_DINOV2, TRANSFORMERS_DINOV2, TRANSFORMERS_REGISTERS, WeightLayout

BlockArguments = Callable[[int], dict[str, Any]]  # index of a block -> its keyword arguments beside the tokens


class PatchEmbedding(nn.Module):
    """What the patch embedding of a plain ViT has; for annotations alone, see `PlainViT`."""

    patch_size: tuple[int, int]  # pixels
    grid_size: tuple[int, int]  # cells of the image size that the model was built for
    proj: nn.Conv2d
    dynamic_img_pad: bool
    dynamic_feat_size: Callable[[tuple[int, int]], tuple[int, int]]  # pixels -> cells


class PlainViT(nn.Module):
    """What any plain ViT of timm has; for annotations alone, the models are of the classes that `FAMILIES` name."""

    patch_embed: PatchEmbedding
    pos_embed: nn.Parameter | None  # (1, P + H*W, C), or (1, H*W, C) with `no_embed_class`
    blocks: nn.ModuleList
    norm: nn.Module
    num_prefix_tokens: int  # P: class, distillation and register tokens
    feature_info: list[dict[str, Any]]  # one for each block that the model was built with


@dataclass(frozen=True)
class ViTFamily:
    """One family of plain ViTs.

    Attributes:
        model_class: its class in timm.
        entry_modules: modules of timm that register its models; a model is recognised by them before it is built.
        before_blocks: names, in the model or in its weights files, of what works before the blocks: the children and
            parameters that freeze with the first blocks and train at the lowest rate of a layer-wise decay.
        after_blocks: the same for what works after them. A feature extractor drops it, but for the norm that it uses.
        optional: those of `before_blocks` that a weights file may hold where the model has no such thing.
        add_positions: (model, patch embeddings (B, H, W, C), or (B, H*W, C) without dynamic size) -> tokens (B, N, C),
            prefix tokens first, and the arguments of the blocks.
        build_options: keywords that its models are built with unless the caller says otherwise.
        hub_positions: DINOv2's original code adds positions in its own way to models of this class, see `position`.
        layouts: names that its weights files may use beside timm's own and those that timm itself converts.
    """

    model_class: type[nn.Module]
    entry_modules: tuple[str, ...]
    before_blocks: tuple[str, ...]
    after_blocks: tuple[str, ...]
    optional: tuple[str, ...]
    add_positions: Callable[[Any, torch.Tensor], tuple[torch.Tensor, BlockArguments]]
    build_options: Mapping[str, Any] = field(default_factory=dict)
    hub_positions: bool = False
    layouts: tuple[WeightLayout, ...] = ()

    def covers(self, model: nn.Module) -> bool:
        """True for a model of the class, or of a subclass that does not walk its blocks in a way of its own."""
        walk = "forward_intermediates"
        return isinstance(model, self.model_class) and getattr(type(model), walk) is getattr(self.model_class, walk)


def _learnt_positions(vit: VisionTransformer, patches: torch.Tensor) -> tuple[torch.Tensor, BlockArguments]:
    return vit.norm_pre(vit._pos_embed(patches)), lambda index: {}


def _rotary_positions(vit: Eva, patches: torch.Tensor) -> tuple[torch.Tensor, BlockArguments]:
    """Mixed rotary positions are of each block, others of all, and a model may do without."""
    tokens, rope = vit._pos_embed(patches)
    tokens = vit.norm_pre(tokens)
    if rope is None:
        return tokens, lambda index: {}
    return tokens, lambda index: {"rope": rope[index] if vit.rope_mixed else rope}


_EMBEDDING = ("patch_embed", "pos_embed", "cls_token", "reg_token", "mask_token", "pos_drop", "patch_drop", "norm_pre")
_TAIL = ("norm", "fc_norm", "attn_pool", "head_drop", "head")

VISION_TRANSFORMER = ViTFamily(  # ViT, DINOv2, CLIP, DeiT III
    model_class=VisionTransformer,
    entry_modules=("timm.models.vision_transformer", "timm.models.deit"),
    before_blocks=_EMBEDDING,
    after_blocks=_TAIL,
    optional=("mask_token",),
    add_positions=_learnt_positions,
    build_options={"dynamic_img_size": True},
    hub_positions=True,
    layouts=(META_DINOV2, TRANSFORMERS_REGISTERS, TRANSFORMERS_DINOV2),
)
DISTILLED = replace(
    VISION_TRANSFORMER,
    model_class=VisionTransformerDistilled,
    before_blocks=(*_EMBEDDING, "dist_token"),
    after_blocks=(*_TAIL, "head_dist"),
    hub_positions=False,
)
EVA = ViTFamily(  # EVA-02, DINOv3, Perception Encoder
    model_class=Eva,
    entry_modules=("timm.models.eva",),
    before_blocks=(*_EMBEDDING, "rope"),
    after_blocks=_TAIL,
    optional=("mask_token", "rope"),
    add_positions=_rotary_positions,
    build_options={"dynamic_img_size": True},
)
FAMILIES = (DISTILLED, VISION_TRANSFORMER, EVA)  # a subclass before its base


def as_plain_vit(model: nn.Module) -> PlainViT | None:
    """The model itself where a family covers it, else None."""
    return cast(PlainViT, model) if any(family.covers(model) for family in FAMILIES) else None


def family_of(vit: PlainViT) -> ViTFamily:
    """The family of a model that `as_plain_vit` returned."""
    return next(family for family in FAMILIES if family.covers(vit))


def family_registered_in(module_name: str) -> ViTFamily | None:
    """The family whose models a module of timm registers; where it registers several, they build alike."""
    return next((family for family in FAMILIES if module_name in family.entry_modules), None)
