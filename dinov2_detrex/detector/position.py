"""How a query's box becomes features: sines and cosines of its coordinates (Liu et al. 2022, DAB-DETR, 4.2)."""

import math

import torch
from torch import Tensor


def get_sine_pos_embed(
    pos: Tensor, num_pos_feats: int = 128, temperature: int = 10000, exchange_xy: bool = True
) -> Tensor:
    """Sine code of normalised coordinates.

    Args:
        pos: (B, N, n), each coordinate in 0..1, e.g. a box as (x, y, w, h).
        num_pos_feats: features per coordinate; even.
        temperature: ratio of the longest to the shortest wave length.
        exchange_xy: code y before x; the other coordinates keep their places (y, x, w, h).

    Returns:
        (B, N, n * num_pos_feats).
    """
    code = sine_code(pos * (2 * math.pi), num_pos_feats, temperature)  # B N n F
    if exchange_xy:
        code = torch.cat((code[..., 1:2, :], code[..., 0:1, :], code[..., 2:, :]), dim=-2)
    return code.flatten(-2)


def sine_code(position: Tensor, num_feats: int, temperature: float) -> Tensor:
    """(...) -> (..., num_feats): sin(position / t_i) and cos(position / t_i) in turn, t_i = temperature^(2i / F).

    Raises:
        ValueError: `num_feats` is odd (a sine without its cosine).
    """
    if num_feats % 2:
        raise ValueError(f"a sine code needs an even number of features per coordinate, got {num_feats}")
    exponent = torch.arange(0, num_feats, 2, dtype=position.dtype, device=position.device) / num_feats
    angle = position[..., None] / temperature**exponent
    return torch.stack((angle.sin(), angle.cos()), dim=-1).flatten(-2)
