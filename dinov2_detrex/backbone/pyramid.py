"""How does one map of a plain ViT become a pyramid of levels? (ViTDet, arXiv 2203.16527, "Simple feature pyramid".)

Written from detectron2's interface and state-dict names; beside those, it takes any patch size: a level is named after
the power of two nearest to its stride, so 7, 14, 28, 56 are p3, p4, p5, p6 like 8, 16, 32, 64.
"""

import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any, cast

import torch
from detectron2.layers import Conv2d, get_norm
from detectron2.modeling import Backbone
from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from torch import nn

from dinov2_detrex.runtime.values import refused, require_whole

SCALES = (4.0, 2.0, 1.0, 0.5, 0.25)
Norm = str | Callable[[int], nn.Module] | None  # a name that `detectron2.layers.get_norm` knows, or channels -> norm


def level_of_stride(stride_px: float | Fraction) -> int:
    """n of the level name p{n}: the power of two nearest to the stride on a logarithmic scale."""
    return round(math.log2(float(stride_px)))


def _exact(stride_px: Fraction) -> int | float:
    return int(stride_px) if stride_px.denominator == 1 else float(stride_px)


def rescaling(channels: int, scale: float, norm: Norm) -> tuple[list[nn.Module], int]:
    """Layers that resize a (B, channels, H, W) map by `scale`, and the channels that leave them.

    Raises:
        NotImplementedError: a scale other than 4, 2, 1, 0.5, 0.25.
    """
    if scale == 4.0:
        half, quarter = channels // 2, channels // 4
        up = [nn.ConvTranspose2d(channels, half, 2, 2), get_norm(norm, half) or nn.Identity(), nn.GELU()]
        return [*up, nn.ConvTranspose2d(half, quarter, 2, 2)], quarter
    if scale == 2.0:
        return [nn.ConvTranspose2d(channels, channels // 2, 2, 2)], channels // 2
    if scale == 1.0:
        return [], channels
    if scale in (0.5, 0.25):
        factor = round(1 / scale)
        return [nn.MaxPool2d(factor, factor)], channels
    raise NotImplementedError(f"scale factor {scale} is not one of {SCALES}")


def build_stage(channels: int, out_channels: int, scale: float, norm: Norm) -> nn.Sequential:
    """Resize, then a 1x1 and a 3x3 convolution: (B, channels, H, W) to (B, out_channels, scale*H, scale*W)."""
    layers, channels = rescaling(channels, scale, norm)
    bias = norm in ("", None)
    lateral = Conv2d(channels, out_channels, 1, bias=bias, norm=get_norm(norm, out_channels))
    output = Conv2d(out_channels, out_channels, 3, padding=1, bias=bias, norm=get_norm(norm, out_channels))
    return nn.Sequential(*layers, lateral, output)


class LayerFusion(nn.Module):
    """Several maps of one size as one: each normalised, then summed, or concatenated and projected.

    The deep layers of a ViT know what a thing is, the earlier ones where its edges are.

    Args:
        channels: of each map.
        how: "sum" or "concat".
        norm: see `detectron2.layers.get_norm`.

    Raises:
        ValueError: another `how`, or a sum of maps with different channels.
    """

    def __init__(self, channels: Sequence[int], how: str, norm: Norm):
        super().__init__()
        if how not in ("sum", "concat"):
            raise ValueError(f"fusion={how!r} is none of 'sum', 'concat' and 'choice'")
        if how == "sum" and len(set(channels)) > 1:
            raise ValueError(f"fusion='sum' needs maps of equal channels, not {list(channels)}; 'concat' takes them")
        self.norms = nn.ModuleList(get_norm(norm, count) or nn.Identity() for count in channels)
        self.projection = Conv2d(sum(channels), channels[-1], 1) if how == "concat" else None

    def forward(self, maps: Sequence[torch.Tensor]) -> torch.Tensor:
        """N maps (B, C_i, H, W) to (B, C, H, W), C the channels of the last."""
        normed = [norm(x) for norm, x in zip(self.norms, maps, strict=True)]
        if self.projection is None:
            return torch.stack(normed).sum(0)
        return self.projection(torch.cat(normed, dim=1))


class LayerChoice(nn.Module):
    """A map of its own for each level: each normalised.

    Args:
        channels: of each map, finest level first.
        norm: see `detectron2.layers.get_norm`.
    """

    def __init__(self, channels: Sequence[int], norm: Norm):
        super().__init__()
        self.norms = nn.ModuleList(get_norm(norm, count) or nn.Identity() for count in channels)

    def forward(self, maps: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Maps (B, C_i, H, W), each of its own shape again."""
        return [norm(x) for norm, x in zip(self.norms, maps, strict=True)]


class SimpleFeaturePyramid(Backbone):
    """Levels at several scales, computed from one map of `net`, from several of its layers fused, or each from its own.

    Args:
        net: a `Backbone`; its parameters are found under `net.`.
        in_feature: name of the map of `net` that the levels are made from; or a list of names, of maps of one stride,
            e.g. ["p2", "p5", "p8", "p11"] for blocks 3, 6, 9 and 12 (`net.out_indices=[2, 5, 8, 11]`).
        out_channels: channels of every level.
        scale_factors: resolution of each level relative to the map, descending by two: a run of 4, 2, 1, 0.5, 0.25.
        top_block: appends coarser levels, e.g. `LastLevelMaxPool()`. The latter always works on the coarsest level;
            any other on the map that its `in_feature` names.
        norm: normalisation of the convolutions, see `detectron2.layers.get_norm`; "" for none (with biases then).
        square_pad: side in pixels of the square that images want to be padded to; 0 for none.
        fusion: how a list of maps is used: "sum" or "concat" makes one of them for all levels, see `LayerFusion`;
            "choice" takes the i-th for the i-th level, finest first. Its parameters are `fusion.`.

    Raises:
        AssertionError: `net` is no `Backbone`, or the strides do not double from level to level.
        ValueError: `in_feature` or the top block's `in_feature` does not exist; or several have different strides, or
            are not as many as the levels that choose among them.
        NotImplementedError: a scale that is not offered.
    """

    def __init__(
        self,
        net: Backbone,
        in_feature: str | Sequence[str],
        out_channels: int,
        scale_factors: Sequence[float],
        top_block: nn.Module | None = None,
        norm: Norm = "LN",
        square_pad: int = 0,
        fusion: str = "sum",
    ):
        super().__init__()
        assert isinstance(net, Backbone), f"net must be a detectron2 Backbone, not {type(net).__name__}"
        require_whole(self, 1, out_channels=out_channels)
        require_whole(self, 0, square_pad=square_pad)
        if not scale_factors:
            raise refused(self, "scale_factors", list(scale_factors), f"one or more of {', '.join(map(str, SCALES))}")
        self._sources = [in_feature] if isinstance(in_feature, str) else list(in_feature)
        channels, stride = _common_shape(net, self._sources)
        strides = [stride / Fraction(scale) for scale in scale_factors]
        assert all(b == 2 * a for a, b in zip(strides, strides[1:])), (
            f"strides must double from level to level; scale factors {list(scale_factors)} give "
            f"{[_exact(s) for s in strides]}"
        )
        self.in_feature, self.scale_factors = in_feature, tuple(scale_factors)
        self._stages = []
        of_levels = _channels_of_levels(channels, len(strides), fusion)
        for level_stride, scale, own_channels in zip(strides, scale_factors, of_levels, strict=True):
            name = f"simfp_{level_of_stride(level_stride)}"
            self.add_module(name, build_stage(own_channels, out_channels, scale, norm))
            self._stages.append(name)
        self.fusion = _fusion(channels, fusion, norm or "LN") if len(channels) > 1 else None
        self.net, self.top_block = net, top_block
        self._set_shapes(strides, out_channels)
        self._size_divisibility = _common_multiple([stride, *self._strides], net.size_divisibility)
        self._square_pad = square_pad

    def _set_shapes(self, strides: list[Fraction], out_channels: int) -> None:
        """Names and true strides of all levels, those of the top block included."""
        names = [f"p{level_of_stride(stride)}" for stride in strides]
        if self.top_block is not None:
            self._top_source = self._find_top_source(self.top_block, names)
            if self._top_source is None:
                stride = strides[-1]
            elif self._top_source in self.net.output_shape():
                _, stride = _channels_and_stride(self.net, self._top_source)
            else:
                stride = strides[names.index(self._top_source)]
            last_level, num_levels = level_of_stride(strides[-1]), cast(Any, self.top_block).num_levels
            for i in range(1, num_levels + 1):
                names, strides = [*names, f"p{last_level + i}"], [*strides, stride * 2**i]
        self._strides = strides
        self._out_features = names
        self._out_feature_strides = {name: _exact(stride) for name, stride in zip(names, strides)}
        self._out_feature_channels = dict.fromkeys(names, out_channels)

    def _find_top_source(self, top_block: nn.Module, level_names: list[str]) -> str | None:
        """The map that the top block works on, a net output before a level of the same name; None: the last level."""
        if isinstance(top_block, LastLevelMaxPool):
            return None  # its in_feature is "p5" whatever the strides are
        in_feature, known = cast(Any, top_block).in_feature, [*self.net.output_shape(), *level_names]
        if in_feature not in known:
            raise ValueError(
                f"{type(top_block).__name__}.in_feature={in_feature!r} is neither an output of net nor a level; "
                f"there are: {', '.join(known)}"
            )
        return in_feature

    @property
    def in_channels(self) -> int | None:
        """Channels of the images, where `net` says so."""
        return getattr(self.net, "in_channels", None)

    @property
    def size_divisibility(self) -> int:
        """Pad images to a multiple of this and every level tiles them exactly, so that the strides are true."""
        return self._size_divisibility

    @property
    def padding_constraints(self) -> dict[str, int]:
        """What `ImageList.from_tensors` takes; detectron2's misspelt key stands beside the right one."""
        return {
            "size_divisibility": self._size_divisibility,
            "size_divisiblity": self._size_divisibility,
            "square_size": self._square_pad,
        }

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """(B, C_in, h, w) images to {"p3": (B, out_channels, h/8, w/8), ...}, finest level first."""
        net_features = self.net(x)
        maps = [net_features[name] for name in self._sources]
        source = maps[0] if self.fusion is None else self.fusion(maps)
        sources = source if isinstance(source, list) else [source] * len(self._stages)
        levels = [getattr(self, stage)(own) for stage, own in zip(self._stages, sources, strict=True)]
        if self.top_block is not None:
            known = {None: levels[-1], **dict(zip(self._out_features, levels)), **net_features}
            levels += self.top_block(known[self._top_source])
        return dict(zip(self._out_features, levels, strict=True))


def _channels_of_levels(channels: Sequence[int], num_levels: int, fusion: str) -> Sequence[int]:
    """What each level is made from; ValueError where each has its own map, and there are more or fewer of them."""
    if len(channels) == 1 or fusion != "choice":
        return [channels[-1]] * num_levels
    if len(channels) != num_levels:
        raise ValueError(f"fusion='choice' takes a map for each of {num_levels} levels, not {len(channels)} maps")
    return channels


def _fusion(channels: Sequence[int], how: str, norm: Norm) -> LayerFusion | LayerChoice:
    return LayerChoice(channels, norm) if how == "choice" else LayerFusion(channels, how, norm)


def _channels_and_stride(net: Backbone, name: str) -> tuple[int, Fraction]:
    """Of an output of `net`; ValueError where there is no such output, or `net` does not say."""
    shapes = net.output_shape()
    if name not in shapes:
        raise ValueError(f"in_feature={name!r} is not an output of net; there are: {', '.join(shapes)}")
    channels, stride = shapes[name].channels, shapes[name].stride
    if channels is None or stride is None:
        raise ValueError(f"net does not say channels and stride of its output {name!r}: {shapes[name]}")
    return channels, Fraction(stride)


def _common_shape(net: Backbone, names: Sequence[str]) -> tuple[list[int], Fraction]:
    """The channels of outputs of `net` and their one stride; ValueError where they have several, or there are none."""
    shapes = [_channels_and_stride(net, name) for name in names]
    strides = {name: _exact(stride) for name, (_, stride) in zip(names, shapes)}
    if len(set(strides.values())) != 1:
        raise ValueError(f"in_feature={list(names)} must name maps of one stride; the strides are {strides}")
    return [channels for channels, _ in shapes], shapes[-1][1]


def _common_multiple(strides: Sequence[Fraction], size_divisibility: int) -> int:
    """Smallest number of pixels that is a whole multiple of every stride and of what `net` itself asks for."""
    numerators = [(stride.numerator) for stride in strides]  # lcm of fractions p/q that divide each other: lcm of p
    return math.lcm(*numerators, max(size_divisibility, 1))
