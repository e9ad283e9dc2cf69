"""Axis-aligned boxes: the tensor wrapper `Boxes`, their IoU, and the conversion of box formats (`BoxMode`)."""

from collections.abc import Iterator
from enum import IntEnum, unique
from typing import Any, TypeVar

import numpy as np
import torch

_Box = TypeVar("_Box")


@unique
class BoxMode(IntEnum):
    """How the four numbers of a box are meant; the conversion is `BoxMode.convert(box, from_mode, to_mode)`."""

    XYXY_ABS = 0  # corners x0 y0 x1 y1, pixels
    XYWH_ABS = 1  # corner x0 y0 and width, height, pixels
    XYXY_REL = 2  # as XYXY_ABS, in fractions of the image
    XYWH_REL = 3
    XYWHA_ABS = 4  # centre, size and angle; the number is reserved, rotated boxes need the real detectron2

    @staticmethod
    def convert(box: _Box, from_mode: "BoxMode", to_mode: "BoxMode") -> _Box:
        """Convert one box or many between XYXY_ABS and XYWH_ABS.

        Args:
            box: list, tuple, 1-D array or 1-D tensor of 4 numbers, or a (N, 4) array or tensor.

        Returns:
            the same kind of object; `box` itself when the modes are equal, otherwise a copy.

        Raises:
            AssertionError: a relative mode, or not four numbers a box.
            NotImplementedError: a conversion that is not provided.
        """
        if from_mode == to_mode:
            return box
        from_mode, to_mode = BoxMode(from_mode), BoxMode(to_mode)
        relative = (BoxMode.XYXY_REL, BoxMode.XYWH_REL)
        assert from_mode not in relative and to_mode not in relative, "relative boxes cannot be converted"
        if (from_mode, to_mode) not in _SIGN:
            raise NotImplementedError(f"no conversion from {from_mode.name} to {to_mode.name}")
        boxes = torch.as_tensor(box)  # keeps the precision of arrays; int64 for ints, float32 for other lists
        assert boxes.shape[-1] == 4, f"a box has 4 numbers, got shape {tuple(boxes.shape)}"
        moved = boxes[..., 2:] + _SIGN[from_mode, to_mode] * boxes[..., :2]
        return _like(box, torch.cat([boxes[..., :2], moved], dim=-1))


_SIGN = {(BoxMode.XYWH_ABS, BoxMode.XYXY_ABS): 1, (BoxMode.XYXY_ABS, BoxMode.XYWH_ABS): -1}


def _like(box: Any, converted: torch.Tensor) -> Any:
    if isinstance(box, torch.Tensor):
        return converted
    if isinstance(box, np.ndarray):
        return converted.numpy()
    return type(box)(converted.tolist())


class Boxes:
    """N boxes in XYXY pixels, held as the float32 attribute `tensor` of shape (N, 4).

    Args:
        tensor: tensor, array or list of boxes; a float32 tensor is shared, anything else copied. Empty is (0, 4).
    """

    def __init__(self, tensor):
        device = tensor.device if isinstance(tensor, torch.Tensor) else torch.device("cpu")
        if isinstance(tensor, (list, tuple)) and any(isinstance(box, torch.Tensor) for box in tensor):
            tensor = torch.stack(list(tensor))
        tensor = torch.as_tensor(tensor, dtype=torch.float32, device=device)
        if tensor.numel() == 0:
            tensor = tensor.reshape(-1, 4) if tensor.ndim == 2 else tensor.new_zeros((0, 4))
        assert tensor.ndim == 2 and tensor.shape[-1] == 4, f"boxes must be (N, 4), got {tuple(tensor.shape)}"
        self.tensor = tensor

    def clone(self) -> "Boxes":
        return Boxes(self.tensor.clone())

    def to(self, device: torch.device | str) -> "Boxes":
        """The boxes on another device; the dtype stays float32."""
        return Boxes(self.tensor.to(device=device))

    def area(self) -> torch.Tensor:
        """(N,) square pixels."""
        return (self.tensor[:, 2] - self.tensor[:, 0]) * (self.tensor[:, 3] - self.tensor[:, 1])

    def clip(self, box_size: tuple[int, int]) -> None:
        """Limit all corners to an image of (height, width), in place on this object.

        Raises:
            AssertionError: a coordinate is NaN or infinite.
        """
        finite = torch.isfinite(self.tensor).all(dim=1)
        assert finite.all(), f"{int((~finite).sum())} of {len(self)} boxes are NaN or infinite and cannot be clipped"
        h, w = box_size
        x0, y0, x1, y1 = self.tensor.unbind(dim=1)
        self.tensor = torch.stack([x0.clamp(0, w), y0.clamp(0, h), x1.clamp(0, w), y1.clamp(0, h)], dim=1)

    def nonempty(self, threshold: float = 0.0) -> torch.Tensor:
        """(N,) bool: True where width and height are both above `threshold` pixels."""
        sides = self.tensor[:, 2:] - self.tensor[:, :2]
        return (sides > threshold).all(dim=1)

    def inside_box(self, box_size: tuple[int, int], boundary_threshold: int = 0) -> torch.Tensor:
        """(N,) bool: True where the box leaves an image of (height, width) by no more than the threshold."""
        h, w = box_size
        x0, y0, x1, y1 = self.tensor.unbind(dim=1)
        starts = (x0 >= -boundary_threshold) & (y0 >= -boundary_threshold)
        return starts & (x1 < w + boundary_threshold) & (y1 < h + boundary_threshold)

    def get_centers(self) -> torch.Tensor:
        """(N, 2) centres as x, y."""
        return (self.tensor[:, :2] + self.tensor[:, 2:]) / 2

    def scale(self, scale_x: float, scale_y: float) -> None:
        """Multiply the coordinates in place, also for those who share the tensor."""
        self.tensor[:, 0::2] *= scale_x
        self.tensor[:, 1::2] *= scale_y

    @property
    def device(self) -> torch.device:
        return self.tensor.device

    @classmethod
    def cat(cls, boxes_list: list["Boxes"]) -> "Boxes":
        assert isinstance(boxes_list, (list, tuple)), f"expected a list of Boxes, got {type(boxes_list).__name__}"
        if not boxes_list:
            return cls(torch.empty(0))
        assert all(isinstance(boxes, Boxes) for boxes in boxes_list), "expected a list of Boxes alone"
        return cls(torch.cat([boxes.tensor for boxes in boxes_list]))

    def __getitem__(self, item) -> "Boxes":
        """Boxes at an int (one box), slice, list, index tensor or mask."""
        if isinstance(item, (int, np.integer)):
            return Boxes(self.tensor[item].view(1, -1))
        selected = self.tensor[item]
        assert selected.ndim == 2, f"indexing Boxes with {item!r} gives shape {tuple(selected.shape)}, not (N, 4)"
        return Boxes(selected)

    def __len__(self) -> int:
        return self.tensor.shape[0]

    def __iter__(self) -> Iterator[torch.Tensor]:
        yield from self.tensor

    def __repr__(self) -> str:
        return f"Boxes({self.tensor})"


def pairwise_iou(boxes1: Boxes, boxes2: Boxes) -> torch.Tensor:
    """(N, M) intersection over union; 0 where two boxes do not overlap, also for boxes without area."""
    start = torch.max(boxes1.tensor[:, None, :2], boxes2.tensor[:, :2])
    end = torch.min(boxes1.tensor[:, None, 2:], boxes2.tensor[:, 2:])
    overlap = (end - start).clamp(min=0).prod(dim=2)
    union = boxes1.area()[:, None] + boxes2.area() - overlap
    return torch.where(overlap > 0, overlap / union, torch.zeros_like(overlap))
