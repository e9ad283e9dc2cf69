"""A backbone without a view beyond its cell: what a detector on it still learns from padding, it learned later on."""

import torch
import torch.nn.functional as F
from detectron2.modeling import Backbone, ShapeSpec


class PoolingBackbone(Backbone):
    """Mean colour and contrast of each cell, at strides 8, 16, ...; padding cannot reach a cell outside of it."""

    def __init__(self, num_levels: int = 4, channels: int = 16, divisibility: int | None = None):
        super().__init__()
        self.strides = [8 * 2**level for level in range(num_levels)]
        self.project = torch.nn.Conv2d(6, channels, 1)
        self.shapes = {
            f"p{3 + level}": ShapeSpec(channels=channels, stride=stride) for level, stride in enumerate(self.strides)
        }
        self.divisibility = self.strides[-1] if divisibility is None else divisibility

    @property
    def size_divisibility(self) -> int:
        return self.divisibility

    def output_shape(self):
        return self.shapes

    def forward(self, x):
        both = torch.cat((x, x.square()), dim=1)
        return {
            name: self.project(F.avg_pool2d(both, shape.stride, ceil_mode=True)) for name, shape in self.shapes.items()
        }
