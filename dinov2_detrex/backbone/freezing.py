"""Which part of a backbone is frozen, and what does frozen mean? No gradient, evaluation mode for good, no_grad.

The frozen part is always a prefix of the computation: the patch and positional embedding, these and the first n
blocks, or everything. So it keeps no activations for the backward pass.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from dinov2_detrex.backbone.vit_families import PlainViT, family_of


@dataclass(frozen=True)
class FrozenPart:
    """What is frozen of a ViT: `embed` the patch and positional embedding, `blocks` the first so many blocks with all
    that comes before them; `everything` of any model."""

    everything: bool = False
    embed: bool = False
    blocks: int = 0


def parse_freeze(freeze: bool | int | str | None, vit: PlainViT | None) -> FrozenPart:
    """Read the `freeze` argument.

    Args:
        freeze: False, None or 0 nothing; True everything; "embed" the patch and positional embedding; a number n the
            embedding with its tokens and the first n blocks.
        vit: the plain ViT it is about, None where the model is something else.

    Raises:
        ValueError: another value, more blocks than there are, or a part of a model that is no plain ViT.
    """
    if freeze is None or isinstance(freeze, bool) or freeze == 0:
        return FrozenPart(everything=freeze is True)
    if not (freeze == "embed" or (isinstance(freeze, int) and freeze > 0)):
        raise ValueError(f'freeze={freeze!r}: give True, False, a number of blocks, or "embed"')
    if vit is None:
        raise ValueError(f"freeze={freeze!r} freezes a part of a plain ViT; this model takes True or False")
    if isinstance(freeze, str):
        return FrozenPart(embed=True)
    if freeze > len(vit.blocks):
        raise ValueError(f"freeze={freeze}: the model has {len(vit.blocks)} blocks up to the last one it returns")
    return FrozenPart(embed=True, blocks=freeze)


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
    """The parameters that take no gradient: those of the frozen modules, and the embeddings beside them."""
    for module in frozen_modules(model, vit, part):
        yield from module.parameters()
    if vit is not None and part.blocks:
        yield from vit.parameters(recurse=False)  # class and register tokens, positions
    elif vit is not None and part.embed and vit.pos_embed is not None:
        yield vit.pos_embed


def gradient_unless(frozen: bool) -> AbstractContextManager[Any]:
    """Context without gradients where `frozen`, else as outside."""
    return torch.set_grad_enabled(torch.is_grad_enabled() and not frozen)
