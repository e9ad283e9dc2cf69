"""How is a timm ViT walked block by block, so that single blocks can be frozen, windowed or checkpointed?

Letters: B images, P prefix tokens (class, registers), H x W cells of the grid, N = P + H*W tokens, C channels.
"""

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from dinov2_detrex.backbone.position import resample_pos_embed
from dinov2_detrex.backbone.vit_families import BlockArguments, PlainViT, family_of
from dinov2_detrex.backbone.windows import WindowedAttention


def grid_size(vit: PlainViT, image_hw: Sequence[int]) -> tuple[int, int]:
    """(H, W) of the grid for an image of (height, width) pixels.

    Raises:
        ValueError: the patch does not divide the image and timm's `dynamic_img_pad` is off.
    """
    patch_hw = vit.patch_embed.patch_size
    height, width = image_hw
    # Sizes are tensors in a trace, but a trace is of one size anyway.
    if torch.jit.is_tracing():  # pyright: ignore[reportPrivateImportUsage]  # public, but not in torch.jit's __all__
        height, width = int(height), int(width)
    if not vit.patch_embed.dynamic_img_pad and (height % patch_hw[0] or width % patch_hw[1]):
        raise ValueError(
            f"an image of {height} x {width} pixels is not a multiple of the patch {patch_hw[0]} x "
            f"{patch_hw[1]}; pad it to the backbone's size_divisibility, or build with dynamic_img_pad=True"
        )
    return vit.patch_embed.dynamic_feat_size((height, width))


def embed_patches(vit: PlainViT, images: torch.Tensor) -> torch.Tensor:
    """(B, C_in, h, w) images to patch embeddings, (B, H, W, C) for a model of dynamic size, else (B, H*W, C)."""
    return vit.patch_embed(images)


def has_hub_positions(vit: PlainViT | None) -> bool:
    """True where the original interpolates differently from timm: learnt positions and no register tokens."""
    if vit is None or not family_of(vit).hub_positions or vit.pos_embed is None:
        return False
    return bool(vit.dynamic_img_size and not vit.num_reg_tokens)


def add_positions(
    vit: PlainViT, patches: torch.Tensor, grid_hw: tuple[int, int], hub: bool, frozen: bool = False
) -> tuple[torch.Tensor, BlockArguments]:
    """Prepend the prefix tokens and add the positional embedding.

    Args:
        vit: the timm model.
        patches: what `embed_patches` returned.
        grid_hw: (H, W).
        hub: interpolate as the original's models without registers do, instead of timm's way.
        frozen: the positional embedding takes no gradient, so resample it without one.

    Returns:
        tokens (B, N, C), and what the blocks take beside them, e.g. the rotary embedding of an `Eva`.
    """
    if hub:
        return _add_hub_positions(vit, patches, grid_hw, frozen), lambda index: {}
    return family_of(vit).add_positions(vit, patches)


def _add_hub_positions(vit: Any, patches: torch.Tensor, grid_hw: tuple[int, int], frozen: bool) -> torch.Tensor:
    """Of a model for which `has_hub_positions`."""
    num_positions = 0 if vit.no_embed_class else vit.num_prefix_tokens
    with torch.set_grad_enabled(torch.is_grad_enabled() and not frozen):
        stored_hw = vit.patch_embed.grid_size
        positions = resample_pos_embed(vit.pos_embed, stored_hw, grid_hw, num_positions, "hub")
    prefix = [] if vit.cls_token is None else [vit.cls_token.expand(patches.shape[0], -1, -1)]
    patches = patches.flatten(1, 2)
    if vit.no_embed_class:
        tokens = torch.cat([*prefix, patches + positions], dim=1)
    else:
        tokens = torch.cat([*prefix, patches], dim=1) + positions
    return vit.norm_pre(vit.pos_drop(tokens))


def run_block(
    block: nn.Module,
    tokens: torch.Tensor,
    arguments: dict[str, Any],
    grid_hw: tuple[int, int],
    windows: WindowedAttention | None = None,
    checkpointed: bool = False,
) -> torch.Tensor:
    """One transformer block, (B, N, C) to (B, N, C).

    Args:
        block: a block of the ViT, its attention perhaps attached to `windows`.
        tokens: prefix tokens, then the grid row by row.
        arguments: what it takes beside them, see `add_positions`.
        grid_hw: (H, W).
        windows: must know the grid when the block runs, which is again in the backward pass when checkpointed.
        checkpointed: recompute the block in the backward pass instead of keeping its activations.
    """

    def run(tokens: torch.Tensor) -> torch.Tensor:
        if windows is not None:
            windows.set_grid(grid_hw)
        return block(tokens, **arguments)

    if checkpointed and torch.is_grad_enabled():
        return cast(torch.Tensor, checkpoint(run, tokens, use_reentrant=False))
    return run(tokens)


def to_feature_map(tokens: torch.Tensor, num_prefix_tokens: int, grid_hw: tuple[int, int]) -> torch.Tensor:
    """(B, P + H*W, C) tokens to the (B, C, H, W) map of the patch tokens."""
    return tokens[:, num_prefix_tokens:].transpose(1, 2).unflatten(2, grid_hw).contiguous()


def prefix_tokens(vit: PlainViT, tokens: torch.Tensor) -> dict[str, torch.Tensor]:
    """{"cls": (B, C), "reg": (B, R, C)} of (B, N, C) tokens, as far as the model has such tokens."""
    reg_token = getattr(vit, "reg_token", None)
    num_registers = 0 if reg_token is None else reg_token.shape[1]
    num_class = vit.num_prefix_tokens - num_registers
    found = {"cls": tokens[:, 0]} if num_class else {}
    return found | ({"reg": tokens[:, num_class : vit.num_prefix_tokens]} if num_registers else {})
