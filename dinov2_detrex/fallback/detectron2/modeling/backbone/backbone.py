"""The interface of a feature extractor: `Backbone`."""

from abc import ABCMeta, abstractmethod
from collections.abc import Mapping, Sequence

import torch
from detectron2.layers import ShapeSpec
from torch import nn


class Backbone(nn.Module, metaclass=ABCMeta):
    """Image batch in, named feature maps out; says its channels and strides before it runs.

    A subclass sets `_out_features` (names in order), `_out_feature_channels` and `_out_feature_strides` (name to
    number), or overrides `output_shape`.
    """

    _out_features: Sequence[str]
    _out_feature_channels: Mapping[str, int]
    _out_feature_strides: Mapping[str, float]

    @abstractmethod
    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """(B, C, H, W) -> name to (B, C', H', W')."""

    @property
    def size_divisibility(self) -> int:
        """The input's sides must be multiples of this; 0 asks for nothing."""
        return 0

    @property
    def padding_constraints(self) -> dict[str, int]:
        """What `ImageList.from_tensors` must respect: optional "size_divisibility" and "square_size" in pixels."""
        return {}

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Name to channels and stride, in output order."""
        return {
            name: ShapeSpec(channels=self._out_feature_channels[name], stride=self._out_feature_strides[name])
            for name in self._out_features
        }
