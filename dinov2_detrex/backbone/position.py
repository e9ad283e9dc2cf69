"""How does a DINOv2 positional embedding reach another grid: as Meta's original does it, or as timm does it?

The original model without registers (github.com/facebookresearch/dinov2, `interpolate_pos_encoding`) resizes its grid
bicubically, without antialiasing, by the factor (n + 0.1) / n0 per side; its register models, like timm, resize to
the exact size with antialiasing. At the native grid all of them leave the embedding alone.
"""

import torch
import torch.nn.functional as F

HUB_OFFSET = 0.1  # the original's guard against rounding; it shifts every sampling point, so it must be kept
MODES = ("hub", "timm")


def check_mode(mode: str) -> str:
    """Return `mode`; ValueError unless it is one of "hub", "timm"."""
    if mode not in MODES:
        raise ValueError(f"pos_embed={mode!r} is not a mode; choose one of {', '.join(map(repr, MODES))}")
    return mode


def resample_grid(grid_embed: torch.Tensor, grid_hw: tuple[int, int], mode: str) -> torch.Tensor:
    """Resize a grid of embeddings.

    Args:
        grid_embed: (1, H0, W0, C), the stored grid.
        grid_hw: wanted (H, W) in cells.
        mode: "hub" as the original's models without registers, "timm" as timm and the original's register models.

    Returns:
        (1, H, W, C) in the dtype of `grid_embed`; `grid_embed` itself where the size fits already.
    """
    stored_hw = tuple(int(n) for n in grid_embed.shape[1:3])
    if stored_hw == tuple(grid_hw):
        return grid_embed
    channels_first = grid_embed.float().permute(0, 3, 1, 2)
    if check_mode(mode) == "hub":
        factors = [(n + HUB_OFFSET) / n0 for n, n0 in zip(grid_hw, stored_hw)]
        resized = F.interpolate(channels_first, scale_factor=factors, mode="bicubic", antialias=False)
    else:
        resized = F.interpolate(channels_first, size=tuple(grid_hw), mode="bicubic", antialias=True)
    return resized.permute(0, 2, 3, 1).to(grid_embed.dtype)


def resample_pos_embed(
    pos_embed: torch.Tensor, stored_hw: tuple[int, int], grid_hw: tuple[int, int], num_prefix_tokens: int, mode: str
) -> torch.Tensor:
    """Resize a flat positional embedding (1, P + H0*W0, C) to (1, P + H*W, C); the P prefix positions stay.

    Args:
        pos_embed: prefix positions first, then the grid row by row.
        stored_hw: (H0, W0) of the stored grid.
        grid_hw: wanted (H, W).
        num_prefix_tokens: P, how many class and register positions `pos_embed` holds.
        mode: see `resample_grid`.
    """
    prefix, grid = pos_embed[:, :num_prefix_tokens], pos_embed[:, num_prefix_tokens:]
    grid = resample_grid(grid.unflatten(1, tuple(stored_hw)), grid_hw, mode)
    return torch.cat([prefix, grid.flatten(1, 2)], dim=1)
