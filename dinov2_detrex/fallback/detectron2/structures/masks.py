"""Instance masks as far as the data path needs them: to draw tight boxes around cropped objects."""

from collections.abc import Sequence

import numpy as np
import torch
from pycocotools import mask as coco_mask

from .boxes import Boxes


def polygons_to_bitmask(polygons: list[np.ndarray], height: int, width: int) -> np.ndarray:
    """(height, width) bool: the union of flat [x0, y0, x1, y1, ...] polygons by COCO's rasterisation."""
    if not polygons:
        return np.zeros((height, width), dtype=bool)
    runs = coco_mask.frPyObjects([np.asarray(polygon).tolist() for polygon in polygons], height, width)
    return coco_mask.decode(coco_mask.merge(runs)).astype(bool)


class BitMasks:
    """N masks as the bool attribute `tensor` of shape (N, H, W)."""

    def __init__(self, tensor):
        tensor = torch.as_tensor(tensor, dtype=torch.bool)
        assert tensor.ndim == 3, f"masks must be (N, H, W), got {tuple(tensor.shape)}"
        self.tensor = tensor

    @property
    def image_size(self) -> tuple[int, int]:
        _, height, width = self.tensor.shape
        return height, width

    @property
    def device(self) -> torch.device:
        return self.tensor.device

    @staticmethod
    def from_polygon_masks(polygon_masks, height: int, width: int) -> "BitMasks":
        """Rasterise `PolygonMasks`, or a list of lists of flat polygons."""
        polygons = polygon_masks.polygons if isinstance(polygon_masks, PolygonMasks) else polygon_masks
        masks = [polygons_to_bitmask(instance, height, width) for instance in polygons]
        return BitMasks(np.stack(masks) if masks else np.zeros((0, height, width), dtype=bool))

    def nonempty(self) -> torch.Tensor:
        """(N,) bool: True where a mask has any pixel."""
        return self.tensor.flatten(1).any(dim=1)

    def get_bounding_boxes(self) -> Boxes:
        """Tight boxes, x1 and y1 one behind the last pixel; zeros for an empty mask."""
        spans = []
        for axis in (1, 2):  # the rows are collapsed for x, the columns for y
            occupied = self.tensor.any(dim=axis)
            start = occupied.float().argmax(dim=1)
            end = occupied.shape[1] - occupied.flip(1).float().argmax(dim=1)
            spans += [start, torch.where(occupied.any(dim=1), end, torch.zeros_like(end))]
        return Boxes(torch.stack([spans[0], spans[2], spans[1], spans[3]], dim=1))

    def to(self, *args, **kwargs) -> "BitMasks":
        return BitMasks(self.tensor.to(*args, **kwargs))

    @classmethod
    def cat(cls, parts: list["BitMasks"]) -> "BitMasks":
        return cls(torch.cat([part.tensor for part in parts]))

    def __getitem__(self, item) -> "BitMasks":
        if isinstance(item, (int, np.integer)):
            return BitMasks(self.tensor[item].unsqueeze(0))
        return BitMasks(self.tensor[item])

    def __len__(self) -> int:
        return self.tensor.shape[0]

    def __repr__(self) -> str:
        return f"BitMasks(num_instances={len(self)}, image_size={self.image_size})"


class PolygonMasks:
    """N masks as polygons: `polygons[i]` is the list of flat float64 arrays [x0, y0, x1, y1, ...] of instance i.

    Raises:
        ValueError: not that nesting, or a polygon with an odd number of values or fewer than three points.
    """

    def __init__(self, polygons: Sequence[Sequence]):
        if not isinstance(polygons, (list, tuple)):
            raise ValueError(f"expected a list of instances, got {type(polygons).__name__}")
        self.polygons = [self._checked(instance) for instance in polygons]

    @staticmethod
    def _checked(instance) -> list[np.ndarray]:
        if not isinstance(instance, (list, tuple)):
            raise ValueError(f"an instance is a list of polygons, got {type(instance).__name__}")
        arrays = [_to_flat_array(polygon) for polygon in instance]
        for array in arrays:
            if len(array) % 2 or len(array) < 6:
                raise ValueError(f"a polygon needs an even number of at least 6 values, got {len(array)}")
        return arrays

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    def nonempty(self) -> torch.Tensor:
        """(N,) bool: True where an instance has any polygon."""
        return torch.tensor([len(instance) > 0 for instance in self.polygons], dtype=torch.bool)

    def area(self) -> torch.Tensor:
        """(N,) float64: the polygons' areas, added up."""
        return torch.tensor([sum(map(_shoelace_area, one)) for one in self.polygons], dtype=torch.float64)

    def get_bounding_boxes(self) -> Boxes:
        """Tight boxes around all polygons of an instance; zeros for one without polygons."""
        boxes = torch.zeros(len(self), 4)
        for i, instance in enumerate(self.polygons):
            if instance:
                points_xy = np.concatenate(instance).reshape(-1, 2)
                boxes[i] = torch.from_numpy(np.concatenate([points_xy.min(axis=0), points_xy.max(axis=0)]))
        return Boxes(boxes)

    def to(self, *args, **kwargs) -> "PolygonMasks":
        """Polygons stay on the CPU."""
        return self

    @classmethod
    def cat(cls, parts: list["PolygonMasks"]) -> "PolygonMasks":
        return cls([instance for part in parts for instance in part.polygons])

    def __getitem__(self, item) -> "PolygonMasks":
        if isinstance(item, (int, np.integer)):
            return PolygonMasks([self.polygons[item]])
        if isinstance(item, slice):
            return PolygonMasks(self.polygons[item])
        index = np.asarray(item)
        chosen = np.arange(len(self))[index] if index.size else []
        return PolygonMasks([self.polygons[i] for i in chosen])

    def __len__(self) -> int:
        return len(self.polygons)

    def __repr__(self) -> str:
        return f"PolygonMasks(num_instances={len(self)})"


def _to_flat_array(polygon) -> np.ndarray:
    array = np.asarray(polygon.cpu() if isinstance(polygon, torch.Tensor) else polygon, dtype=np.float64)
    if array.ndim != 1:
        raise ValueError(f"a polygon is a flat list [x0, y0, x1, y1, ...], got shape {array.shape}")
    return array


def _shoelace_area(polygon: np.ndarray) -> float:
    x, y = polygon[0::2], polygon[1::2]
    return 0.5 * abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1)))
