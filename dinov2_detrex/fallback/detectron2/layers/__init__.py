"""Building blocks: convolution with norm, norms by name, suppression of overlapping boxes."""

from .batch_norm import FrozenBatchNorm2d, LayerNorm, get_norm
from .nms import batched_nms
from .shape_spec import ShapeSpec
from .wrappers import Conv2d, cat

__all__ = ["Conv2d", "FrozenBatchNorm2d", "LayerNorm", "ShapeSpec", "batched_nms", "cat", "get_norm"]
