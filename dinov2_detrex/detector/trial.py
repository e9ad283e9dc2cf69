"""Do a detector's neck and position embedding work with its other parts? Tried when it is built, on maps of few cells.

They may be anybody's classes, which check nothing; without the trial a wrong number shows in the first training step.
"""

import math
from collections.abc import Sequence

import torch
from detectron2.modeling import Backbone
from torch import Tensor, nn

from dinov2_detrex.runtime.values import refused

_CELLS = 2  # of the coarsest map's side


@torch.no_grad()
def try_neck(backbone: Backbone, neck: nn.Module) -> Sequence[Tensor]:
    """What the neck makes of maps of zeros as the backbone gives them; modes and statistics of the neck stay.

    Returns:
        its levels, (1, C, H, W) each; [] where the backbone does not state channels and strides.
    """
    shapes = backbone.output_shape()
    stated = {name: (s.channels, s.stride) for name, s in shapes.items() if s.channels is not None and s.stride}
    if len(stated) < len(shapes):
        return []
    coarsest = max(stride for _, stride in stated.values())
    like = next(neck.parameters(), torch.empty(0))
    maps = {}
    for name, (channels, stride) in stated.items():
        side = math.ceil(_CELLS * coarsest / stride)
        maps[name] = torch.zeros((1, channels, side, side), dtype=like.dtype, device=like.device)
    modes = {module: module.training for module in neck.modules()}
    try:
        return neck.eval()(maps)
    finally:
        for module, training in modes.items():
            module.training = training


@torch.no_grad()
def check_position_embedding(position_embedding: nn.Module, embed_dim: int) -> None:
    """Code the positions of an image of few cells.

    Raises:
        UsageError: the codes have another width than the detector, or are not finite.
    """
    asked = getattr(position_embedding, "num_pos_feats", None)
    if isinstance(asked, int | float) and asked > embed_dim:  # which may be too much for the memory
        raise refused(position_embedding, "num_pos_feats", asked, f"half of the detector's embed_dim={embed_dim}")
    like = next(position_embedding.parameters(), torch.empty(0))
    codes = position_embedding(torch.zeros((1, _CELLS, _CELLS), dtype=torch.bool, device=like.device))
    if codes.shape[1] != embed_dim:
        raise refused(
            position_embedding, "output", f"{codes.shape[1]} channels", f"the detector's embed_dim={embed_dim}"
        )
    if not codes.is_meta and not torch.isfinite(codes).all():
        raise refused(position_embedding, "output", "NaN or infinity", "finite: see its temperature, scale and offset")
