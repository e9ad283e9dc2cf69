"""How is a timm ViT walked block by block, so that single blocks can be frozen, windowed or checkpointed?

Letters: B images, P prefix tokens (class, registers), H x W cells of the grid, N = P + H*W tokens, C channels.
"""

import torch
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from torch.utils.checkpoint import checkpoint

from dinov2_detrex.backbone.position import resample_pos_embed
from dinov2_detrex.backbone.windows import WindowedAttention


def is_plain_vit(model: nn.Module) -> bool:
    """True for timm's `VisionTransformer` and `Eva` (DINOv3, EVA-02), walked the way their own forward does."""
    return any(
        isinstance(model, family) and type(model).forward_intermediates is family.forward_intermediates
        for family in (VisionTransformer, Eva)
    )


def grid_size(vit: nn.Module, image_hw: tuple[int, int]) -> tuple[int, int]:
    """(H, W) of the grid for an image of (height, width) pixels.

    Raises:
        ValueError: the patch does not divide the image and timm's `dynamic_img_pad` is off.
    """
    patch_hw = vit.patch_embed.patch_size
    if torch.jit.is_tracing():  # sizes are tensors there, but a trace is of one size anyway
        image_hw = tuple(int(size) for size in image_hw)
    if not vit.patch_embed.dynamic_img_pad and any(size % patch for size, patch in zip(image_hw, patch_hw)):
        raise ValueError(
            f"an image of {image_hw[0]} x {image_hw[1]} pixels is not a multiple of the patch {patch_hw[0]} x "
            f"{patch_hw[1]}; pad it to the backbone's size_divisibility, or build with dynamic_img_pad=True"
        )
    return tuple(vit.patch_embed.dynamic_feat_size(tuple(image_hw)))


def embed_patches(vit: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """(B, C_in, h, w) images to patch embeddings, (B, H, W, C) for a model of dynamic size, else (B, H*W, C)."""
    return vit.patch_embed(images)


def has_hub_positions(vit: nn.Module | None) -> bool:
    """True where the original interpolates differently from timm: learnt positions and no register tokens."""
    return (
        isinstance(vit, VisionTransformer)
        and type(vit)._pos_embed is VisionTransformer._pos_embed
        and vit.pos_embed is not None
        and not vit.num_reg_tokens
        and vit.dynamic_img_size
    )


def add_positions(
    vit: nn.Module, patches: torch.Tensor, grid_hw: tuple[int, int], hub: bool, frozen: bool = False
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Prepend the prefix tokens and add the positional embedding.

    Args:
        vit: the timm model.
        patches: what `embed_patches` returned.
        grid_hw: (H, W).
        hub: interpolate as the original's models without registers do, instead of timm's way.
        frozen: the positional embedding takes no gradient, so resample it without one.

    Returns:
        tokens (B, N, C), and the rotary embedding that the blocks of an `Eva` take, else None.
    """
    if hub:
        return _add_hub_positions(vit, patches, grid_hw, frozen), None
    embedded = vit._pos_embed(patches)
    tokens, rope = embedded if isinstance(embedded, tuple) else (embedded, None)
    return vit.norm_pre(tokens), rope


def _add_hub_positions(vit: nn.Module, patches: torch.Tensor, grid_hw: tuple[int, int], frozen: bool) -> torch.Tensor:
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


def rope_of_block(vit: nn.Module, rope: torch.Tensor | None, index: int) -> torch.Tensor | None:
    """The rotary embedding of block `index`: models with mixed rotary positions have one for each block."""
    return rope[index] if rope is not None and getattr(vit, "rope_mixed", False) else rope


def run_block(
    block: nn.Module,
    tokens: torch.Tensor,
    rope: torch.Tensor | None,
    grid_hw: tuple[int, int],
    windows: WindowedAttention | None = None,
    checkpointed: bool = False,
) -> torch.Tensor:
    """One transformer block, (B, N, C) to (B, N, C).

    Args:
        block: a block of the ViT, its attention perhaps attached to `windows`.
        tokens: prefix tokens, then the grid row by row.
        rope: rotary embedding of the grid, where the model has one.
        grid_hw: (H, W).
        windows: must know the grid when the block runs, which is again in the backward pass when checkpointed.
        checkpointed: recompute the block in the backward pass instead of keeping its activations.
    """
    kwargs = {} if rope is None else {"rope": rope}

    def run(tokens: torch.Tensor) -> torch.Tensor:
        if windows is not None:
            windows.set_grid(grid_hw)
        return block(tokens, **kwargs)

    if checkpointed and torch.is_grad_enabled():
        return checkpoint(run, tokens, use_reentrant=False)
    return run(tokens)


def to_feature_map(tokens: torch.Tensor, num_prefix_tokens: int, grid_hw: tuple[int, int]) -> torch.Tensor:
    """(B, P + H*W, C) tokens to the (B, C, H, W) map of the patch tokens."""
    return tokens[:, num_prefix_tokens:].transpose(1, 2).unflatten(2, grid_hw).contiguous()


def prefix_tokens(vit: nn.Module, tokens: torch.Tensor) -> dict[str, torch.Tensor]:
    """{"cls": (B, C), "reg": (B, R, C)} of (B, N, C) tokens, as far as the model has such tokens."""
    reg_token = getattr(vit, "reg_token", None)
    num_registers = 0 if reg_token is None else reg_token.shape[1]
    num_class = vit.num_prefix_tokens - num_registers
    found = {"cls": tokens[:, 0]} if num_class else {}
    return found | ({"reg": tokens[:, num_class : vit.num_prefix_tokens]} if num_registers else {})
