"""Which part of a backbone is frozen, and what does frozen mean? No gradient, evaluation mode for good, no_grad.

The frozen part is always a prefix of the computation: the patch and positional embedding, these and the first n
blocks, or everything. So it keeps no activations for the backward pass. With adapters (`adapters.py`) it is what comes
before the first of them; the weights after that take no gradient either, but lead one back.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from dinov2_detrex.backbone.adapters import LowRank, adapted_blocks
from dinov2_detrex.backbone.vit_families import PlainViT, family_of

LORA = "lora"


@dataclass(frozen=True)
class FrozenPart:
    """What is frozen of a ViT: `embed` the patch and positional embedding, `blocks` the first so many blocks with all
    that comes before them; `everything` of any model; `adapted` all weights, beside which adapters train."""

    everything: bool = False
    embed: bool = False
    blocks: int = 0
    adapted: bool = False


def parse_freeze(freeze: bool | int | str | None, vit: PlainViT | None, low_rank: LowRank) -> FrozenPart:
    """Read the `freeze` argument.

    Args:
        freeze: False, None or 0 nothing; True everything; "embed" the patch and positional embedding; a number n the
            embedding with its tokens and the first n blocks; "lora" everything but adapters.
        vit: the plain ViT it is about, None where the model is something else.
        low_rank: what the adapters are like; without "lora" as it is by default.

    Raises:
        ValueError: another value, more blocks than there are, or a part of a model that is no plain ViT.
    """
    if freeze != LORA and low_rank != LowRank():
        given = ", ".join(f"lora_{name}={value}" for name, value in _unusual(low_rank).items())
        raise ValueError(f"freeze={freeze!r} has no adapters, so that {given} says nothing; set freeze={LORA!r}")
    if freeze is None or isinstance(freeze, bool) or freeze == 0:
        return FrozenPart(everything=freeze is True)
    if not (freeze in ("embed", LORA) or (isinstance(freeze, int) and freeze > 0)):
        raise ValueError(f'freeze={freeze!r}: give True, False, a number of blocks, "embed" or "lora"')
    if vit is None:
        raise ValueError(f"freeze={freeze!r} freezes a part of a plain ViT; this model takes True or False")
    if freeze == LORA:
        return FrozenPart(embed=True, blocks=adapted_blocks(low_rank, len(vit.blocks))[0], adapted=True)
    if isinstance(freeze, str):
        return FrozenPart(embed=True)
    if freeze > len(vit.blocks):
        raise ValueError(f"freeze={freeze}: the model has {len(vit.blocks)} blocks up to the last one it returns")
    return FrozenPart(embed=True, blocks=freeze)


def _unusual(low_rank: LowRank) -> dict[str, Any]:
    usual = asdict(LowRank())
    return {name: value for name, value in asdict(low_rank).items() if value != usual[name]}


def frozen_modules(model: nn.Module, vit: PlainViT | None, part: FrozenPart) -> Iterator[nn.Module]:
    """The modules that stay in evaluation mode."""
    if part.everything:
        yield model
    elif vit is not None and part.blocks:
        others = ("blocks", *family_of(vit).after_blocks)
        yield from (child for name, child in vit.named_children() if name not in others)
        yield from vit.blocks[: part.blocks]
    elif vit is not None and part.embed:
        yield vit.patch_embed


def frozen_parameters(model: nn.Module, vit: PlainViT | None, part: FrozenPart) -> Iterator[nn.Parameter]:
    """The parameters that take no gradient: those of the frozen modules, and the embeddings beside them.

    Asked before adapters are attached, which are none of them.
    """
    if part.adapted:
        yield from model.parameters()
    for module in frozen_modules(model, vit, part):
        yield from module.parameters()
    if vit is not None and part.blocks:
        yield from vit.parameters(recurse=False)  # class and register tokens, positions
    elif vit is not None and part.embed and vit.pos_embed is not None:
        yield vit.pos_embed


def gradient_unless(frozen: bool) -> AbstractContextManager[Any]:
    """Context without gradients where `frozen`, else as outside."""
    return torch.set_grad_enabled(torch.is_grad_enabled() and not frozen)
