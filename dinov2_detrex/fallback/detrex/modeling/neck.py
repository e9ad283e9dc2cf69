"""The neck: one convolution per feature map to a common width, and extra coarser maps from the last one."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn


class _ConvNormAct(nn.Module):
    """A convolution, then a normalisation and an activation where there are any."""

    def __init__(self, conv: nn.Conv2d, norm: nn.Module | None, activation: nn.Module | None):
        super().__init__()
        self.conv = conv
        self.norm = copy.deepcopy(norm)
        self.activation = copy.deepcopy(activation)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        x = self.norm(x) if self.norm is not None else x
        return self.activation(x) if self.activation is not None else x


class ChannelMapper(nn.Module):
    """Map features of any channels to `out_channels` each, and append maps of half the size until there are `num_outs`.

    Args:
        input_shapes: name -> anything with `.channels`.
        in_features: the names to map, fine to coarse.
        out_channels: channels of every output.
        kernel_size, stride, bias, groups, dilation: of the mapping convolutions; padding is (kernel_size - 1) // 2.
        norm_layer: a normalisation module, copied for every output; None = none.
        activation: an activation module, likewise.
        num_outs: number of outputs; None = as many as `input_shapes` has. More than `in_features`: 3 x 3 convolutions
            of stride 2, the first on the last INPUT map, each further one on the map before.
        **ignored: accepted for the sake of configs that pass more.

    Raises:
        KeyError: a name of `in_features` that `input_shapes` lacks.
    """

    def __init__(
        self,
        input_shapes: Mapping,
        in_features: Sequence[str],
        out_channels: int,
        kernel_size: int = 3,
        stride: int = 1,
        bias: bool = True,
        groups: int = 1,
        dilation: int = 1,
        norm_layer: nn.Module | None = None,
        activation: nn.Module | None = None,
        num_outs: int | None = None,
        **ignored,
    ):
        super().__init__()
        channels = [input_shapes[name].channels for name in in_features]
        num_outs = len(input_shapes) if num_outs is None else num_outs
        shared: dict[str, Any] = dict(bias=bias, groups=groups, dilation=dilation)
        padding = (kernel_size - 1) // 2

        def mapping(in_channels: int, **geometry) -> _ConvNormAct:
            conv = nn.Conv2d(in_channels, out_channels, **geometry, **shared)
            return _ConvNormAct(conv, norm_layer, activation)

        self.in_features = list(in_features)
        self.convs = nn.ModuleList(
            mapping(c, kernel_size=kernel_size, stride=stride, padding=padding) for c in channels
        )
        extra_inputs = [channels[-1]] + [out_channels] * (num_outs - len(channels) - 1)
        self.extra_convs = (
            nn.ModuleList(mapping(c, kernel_size=3, stride=2, padding=1) for c in extra_inputs)
            if num_outs > len(channels)
            else None
        )

    def forward(self, inputs: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        """Maps by name, each (B, C_i, H_i, W_i) -> `num_outs` maps (B, out_channels, ...), fine to coarse.

        Raises:
            KeyError: a map of `in_features` is missing. Maps that are not listed there are left alone.
        """
        outputs = [conv(inputs[name]) for conv, name in zip(self.convs, self.in_features)]
        x = inputs[self.in_features[-1]]
        for conv in self.extra_convs or ():
            x = conv(x)
            outputs.append(x)
        return tuple(outputs)
