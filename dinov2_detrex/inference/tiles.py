"""How is a picture looked at in tiles, so that small objects in a large one are not lost when it is scaled down?

Overlapping windows are looked at one by one, and the whole picture as well, in which the objects that are larger than
a window are found; after Akyon et al. 2022, "Slicing Aided Hyper Inference", section 3. A picture that fits one tile is
looked at once, and its boxes are those without tiles.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from detectron2.structures import Boxes, Instances
from torch import Tensor

from dinov2_detrex.inference.detections import no_instances
from dinov2_detrex.runtime.errors import UsageError

Window = tuple[int, int, int, int]  # x0, y0, x1, y1 in pixels of the picture

SAME_OBJECT = 0.5  # from which overlap on two boxes of a class from different windows are of one object
CUT_PX = 2.0  # so near to an edge of its window that goes through the picture, a box is taken for cut off
CUT_COUNTS = 0.5  # by which the score of such a box counts beside that of a whole one


@dataclass(frozen=True)
class Tiling:
    """How pictures are cut.

    Attributes:
        tile_px: side of the square tiles, in pixels of the picture.
        overlap: of neighbouring tiles, a share of their side from 0 to 0.9; an object up to that size is whole in one.

    Raises:
        UsageError: a value is out of its range.
    """

    tile_px: int
    overlap: float = 0.2

    def __post_init__(self):
        if isinstance(self.tile_px, bool) or not isinstance(self.tile_px, int) or self.tile_px < 1:
            raise UsageError(f"tile={self.tile_px!r} must be a whole number of pixels, at least 1")
        if not isinstance(self.overlap, int | float) or not 0 <= self.overlap <= 0.9:
            raise UsageError(f"overlap={self.overlap!r} must be a share from 0 to 0.9")

    def windows(self, image_hw: tuple[int, int]) -> list[Window]:
        """The tiles that cover a picture of that (height, width), and last the whole; the whole alone if it fits one.

        The tiles are spread evenly, so that none reaches over the edge and neighbours overlap at least as asked.
        """
        height, width = image_hw
        whole = (0, 0, width, height)
        if max(image_hw) <= self.tile_px:
            return [whole]
        tile_w, tile_h = min(self.tile_px, width), min(self.tile_px, height)
        tops, lefts = self._starts(height), self._starts(width)
        return [(x, y, x + tile_w, y + tile_h) for y in tops for x in lefts] + [whole]

    def _starts(self, length: int) -> list[int]:
        room = length - self.tile_px
        if room <= 0:
            return [0]
        steps = -(-room // max(1, int(self.tile_px * (1 - self.overlap))))
        return [round(i * room / steps) for i in range(steps + 1)]


def merged(parts: Sequence[Instances], windows: Sequence[Window], image_hw: tuple[int, int]) -> Instances:
    """What was found in the windows of a picture, each object once.

    Of two boxes of one class and of different windows that are of one object, the one of the higher score stays; a box
    that its window cuts off counts less. Boxes of one window are never compared: a DETR does not find an object twice.

    Args:
        parts: for each window, on the CPU: pred_boxes in pixels of the window, scores and pred_classes; other fields
            are left out. They should be selected before: a box of a very low score could displace another.
        windows: where they lie.
        image_hw: (height, width) of the picture.
    """
    if len(parts) == 1:
        return parts[0]
    offsets = [torch.tensor([x0, y0, x0, y0], dtype=torch.float32) for x0, y0, _, _ in windows]
    boxes = torch.cat([part.pred_boxes.tensor + offset for part, offset in zip(parts, offsets)])
    cut = torch.cat([_is_cut(part.pred_boxes.tensor, window, image_hw) for part, window in zip(parts, windows)])
    scores, classes = torch.cat([part.scores for part in parts]), torch.cat([part.pred_classes for part in parts])
    of_window = torch.cat([torch.full((len(part),), i) for i, part in enumerate(parts)])
    kept = _distinct(boxes, torch.where(cut, CUT_COUNTS * scores, scores), classes, of_window, cut)
    kept = kept[scores[kept].argsort(descending=True, stable=True)]
    found = no_instances(image_hw)
    return Instances(found.image_size, pred_boxes=Boxes(boxes[kept]), scores=scores[kept], pred_classes=classes[kept])


def _is_cut(boxes: Tensor, window: Window, image_hw: tuple[int, int]) -> Tensor:
    """(N,) True for boxes that touch an edge of the window which is none of the picture's."""
    x0, y0, x1, y1 = window
    height, width = image_hw
    left, top, right, bottom = boxes.unbind(1)
    return (
        ((left <= CUT_PX) & (x0 > 0))
        | ((top <= CUT_PX) & (y0 > 0))
        | ((right >= x1 - x0 - CUT_PX) & (x1 < width))
        | ((bottom >= y1 - y0 - CUT_PX) & (y1 < height))
    )


def _distinct(boxes: Tensor, ranks: Tensor, classes: Tensor, of_window: Tensor, cut: Tensor) -> Tensor:
    """Indices of the boxes that stay, the highest ranks first."""
    order = ranks.argsort(descending=True, stable=True)
    alive = torch.ones(len(boxes), dtype=torch.bool)
    kept = []
    for i in order.tolist():
        if not alive[i]:
            continue
        kept.append(i)
        rivals = (alive & (classes == classes[i]) & (of_window != of_window[i])).nonzero()[:, 0]
        same = _overlap(boxes[i], cut[i], boxes[rivals], cut[rivals]) >= SAME_OBJECT
        alive[rivals[same]] = False
    return torch.tensor(kept, dtype=torch.int64)


def _overlap(box: Tensor, box_is_cut: Tensor, others: Tensor, cut: Tensor) -> Tensor:
    """(N,) intersection over union with each of the others; where one of the two is cut, over the smaller one."""
    sides = (torch.minimum(box[2:], others[:, 2:]) - torch.maximum(box[:2], others[:, :2])).clamp(min=0)
    shared = sides.prod(1)
    area, areas = (box[2:] - box[:2]).prod(), (others[:, 2:] - others[:, :2]).prod(1)
    smaller = torch.minimum(area, areas)
    return shared / torch.where(cut | box_is_cut, smaller, area + areas - shared).clamp(min=1e-6)
