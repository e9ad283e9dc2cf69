"""Which weights does autocast cast in every call, and so can be cast once? Those of matrix products and convolutions.

Autocast keeps no cast of what needs no gradient, and none from one call to the next: all of a model's weights are read
and written anew for each batch. The products get the same numbers either way, so detections are equal to the bit.
"""

import torch
from torch import nn

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


@torch.no_grad()
def cast_weights(model: nn.Module, dtype: torch.dtype) -> None:
    """Cast in place what autocast in `dtype` would cast in every call; norms, embeddings and scales stay as they are.

    Args:
        model: from here on for calls under that autocast alone.
        dtype: bfloat16 or float16.
    """
    for module in model.modules():
        if isinstance(module, LAYERS):
            names = ("weight", "bias")
        elif isinstance(module, nn.MultiheadAttention):
            names = ("in_proj_weight", "in_proj_bias", "q_proj_weight", "k_proj_weight", "v_proj_weight")
        else:
            continue
        for parameter in (getattr(module, name, None) for name in names):
            if isinstance(parameter, nn.Parameter) and parameter.dtype == torch.float32:
                parameter.data = parameter.data.to(dtype)
