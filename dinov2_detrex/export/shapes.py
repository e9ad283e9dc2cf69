"""Which sizes does an exported graph take? Fixed ones, or any in a range."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.export import Dim

from dinov2_detrex.detector import DINO
from dinov2_detrex.export.graph import (
    BOXES,
    IMAGES,
    LABELS,
    RAW_OUTPUTS,
    SCORES,
    SIZES,
    canvas_multiple,
    up_to_multiple,
)
from dinov2_detrex.runtime.errors import UsageError

LARGEST = 2048  # px, the longest side that a dynamic graph takes unless told otherwise
MAX_BATCH = 256


@dataclass(frozen=True)
class GraphShapes:
    """What a graph takes.

    Attributes:
        raw: the network alone.
        batch: images; None for any number.
        size_hw: (height, width) of the images in pixels; None for any multiples of `multiple`.
        multiple: what all levels tile, in pixels.
        smallest, largest: of a dynamic size, in pixels.
    """

    raw: bool
    batch: int | None
    size_hw: tuple[int, int] | None
    multiple: int
    smallest: int
    largest: int

    @classmethod
    def of(
        cls,
        model: DINO,
        size_hw: tuple[int, int] | None,
        batch: int | None,
        raw: bool = False,
        largest: int = LARGEST,
    ) -> "GraphShapes":
        """For a detector.

        Raises:
            UsageError: sizes that it cannot take.
        """
        multiple = canvas_multiple(model)
        smallest, largest = smallest_side(model), up_to_multiple(largest, multiple)
        if size_hw is None and largest < 2 * smallest:
            raise UsageError(f"--largest {largest} leaves no range of sizes: this detector begins at {smallest} px")
        if raw and size_hw is not None and any(side % multiple for side in size_hw):
            raise UsageError(f"--raw takes sizes that are multiples of {multiple} px, not {size_hw[0]} x {size_hw[1]}")
        return cls(raw, batch, size_hw, multiple, smallest, largest)

    @property
    def canvas_hw(self) -> tuple[int, int] | None:
        """Size of the network's input, None where dynamic."""
        if self.size_hw is None:
            return None
        height, width = (up_to_multiple(side, self.multiple) for side in self.size_hw)
        return height, width

    @property
    def input_names(self) -> tuple[str, ...]:
        return (IMAGES,) if self.raw else (IMAGES, SIZES)

    @property
    def output_names(self) -> tuple[str, ...]:
        return RAW_OUTPUTS if self.raw else (BOXES, SCORES, LABELS)

    def example(self) -> tuple[Tensor, ...]:
        """Inputs of a size that the graph takes; of a dynamic one none of them is a size with a meaning of its own."""
        middle = self.smallest + self.multiple
        height, width = self.size_hw or (middle, middle + self.multiple)
        batch = self.batch or 2
        if self.raw:
            return (torch.zeros(batch, 3, height, width),)
        sizes = torch.tensor([[height, width]]).repeat(batch, 1)
        return torch.zeros(batch, height, width, 3, dtype=torch.uint8), sizes

    def dynamic_shapes(self) -> tuple[dict[int, Any], ...] | None:
        """As torch.export wants them, one dict for each input; None where nothing is dynamic."""
        batch = {} if self.batch else {0: Dim.DYNAMIC(min=1, max=MAX_BATCH)}
        images = dict(batch)
        if self.size_hw is None:
            side = Dim.DYNAMIC(min=self.smallest, max=self.largest)
            images |= {2: side, 3: side} if self.raw else {1: side, 2: side}
        if not images:
            return None
        return (images,) if self.raw else (images, batch)

    def describe(self, dtype: str, guarded: bool = False) -> dict[str, Any]:
        """The "graph" of the metadata.

        Args:
            dtype: what is computed in.
            guarded: it is a program of torch, whose guards let no size pass that is below the one it was made with.
        """
        height, width = self.size_hw or (None, None)
        smallest = self.smallest + 2 * self.multiple if guarded else self.smallest
        limits = {"multiple": self.multiple, "smallest": smallest, "largest": self.largest}
        return {"raw": self.raw, "batch": self.batch, "height": height, "width": width, "dtype": dtype} | limits


def smallest_side(model: DINO) -> int:
    """The side in pixels of the smallest square whose cells are as many as the queries.

    A dynamic graph has one number of queries, so smaller pictures are given to it on a canvas of this size.
    """
    multiple = canvas_multiple(model)
    strides = [shape.stride or multiple for shape in model.backbone.output_shape().values()]
    steps = 1
    while sum((steps * multiple / stride) ** 2 for stride in strides) < model.num_queries:
        steps += 1
    return steps * multiple
