"""What a module says of a feature map: `ShapeSpec`."""

from dataclasses import dataclass


@dataclass
class ShapeSpec:
    """Channels, size and stride of a feature map; None is "not known". Compares by value.

    Attributes:
        channels: number of channels C.
        height, width: size in cells of the map.
        stride: pixels of the image per cell; an int where it is whole.
    """

    channels: int | None = None
    height: int | None = None
    width: int | None = None
    stride: float | None = None
