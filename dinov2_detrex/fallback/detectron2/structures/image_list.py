"""Images of different sizes as one padded batch that still knows each size: `ImageList`."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F


class ImageList:
    """A padded batch and the size of each image in it.

    Attributes:
        tensor: (B, ..., H, W), each image in the top left corner.
        image_sizes: B pairs (height, width) before padding.
    """

    def __init__(self, tensor: torch.Tensor, image_sizes: list[tuple[int, int]]):
        self.tensor = tensor
        self.image_sizes = image_sizes

    def __len__(self) -> int:
        return len(self.image_sizes)

    def __getitem__(self, index: int) -> torch.Tensor:
        """Image `index` without its padding, as a view."""
        height, width = self.image_sizes[index]
        return self.tensor[index, ..., :height, :width]

    def to(self, *args, **kwargs) -> "ImageList":
        return ImageList(self.tensor.to(*args, **kwargs), self.image_sizes)

    @property
    def device(self) -> torch.device:
        return self.tensor.device

    @staticmethod
    def from_tensors(
        tensors: Sequence[torch.Tensor],
        size_divisibility: int = 0,
        pad_value: float = 0.0,
        padding_constraints: dict[str, int] | None = None,
    ) -> "ImageList":
        """Pad images at the right and the bottom to one canvas.

        Args:
            tensors: list or tuple of (..., H, W), equal in all but H and W.
            size_divisibility: both sides of the canvas are rounded up to a multiple; 0 and 1 ask for nothing.
            pad_value: value of the padding.
            padding_constraints: as in `Backbone.padding_constraints`: "square_size" sets both sides of the canvas,
                "size_divisibility" replaces the argument of that name.

        Raises:
            AssertionError: no images, not a list or tuple, or leading dimensions that differ.
            ValueError: an image is larger than "square_size".
        """
        assert isinstance(tensors, (list, tuple)), f"expected a list or tuple, got {type(tensors).__name__}"
        assert len(tensors) > 0, "expected at least one image"
        leading = {tuple(image.shape[:-2]) for image in tensors}
        assert len(leading) == 1, f"the images' leading dimensions differ: {sorted(leading)}"
        sizes = [(image.shape[-2], image.shape[-1]) for image in tensors]
        height, width = _canvas(sizes, size_divisibility, padding_constraints or {})
        padded = [F.pad(image, (0, width - w, 0, height - h), value=pad_value) for image, (h, w) in zip(tensors, sizes)]
        return ImageList(torch.stack(padded).contiguous(), sizes)


def _canvas(sizes: list[tuple[int, int]], divisibility: int, constraints: dict[str, int]) -> tuple[int, int]:
    """(height, width) that holds all `sizes` under the constraints."""
    height, width = (max(side) for side in zip(*sizes))
    square = constraints.get("square_size", 0)
    if square > 0:
        if max(height, width) > square:
            raise ValueError(f"an image of {height} x {width} does not fit into the asked square of {square} pixels")
        height = width = square
    divisibility = constraints.get("size_divisibility", divisibility)
    if divisibility > 1:
        height, width = (-(-side // divisibility) * divisibility for side in (height, width))
    return height, width
