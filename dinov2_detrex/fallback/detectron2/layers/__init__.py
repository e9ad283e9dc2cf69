"""Building blocks: convolution with norm, norms by name, suppression of overlapping boxes."""

from detectron2.left_out import refuse

from .batch_norm import FrozenBatchNorm2d, LayerNorm, get_norm
from .nms import batched_nms
from .shape_spec import ShapeSpec
from .wrappers import Conv2d, cat

__all__ = ["Conv2d", "FrozenBatchNorm2d", "LayerNorm", "ShapeSpec", "batched_nms", "cat", "get_norm"]

__getattr__ = refuse(
    __name__,
    "BatchNorm2d",
    "ConvTranspose2d",
    "Linear",
    "NaiveSyncBatchNorm",
    "cross_entropy",
    "interpolate",
    "move_device_like",
    "nms",
    "nonzero_tuple",
    "shapes_to_tensor",
    hint="most of these are torch's own under torch.nn and torchvision.ops",
)
