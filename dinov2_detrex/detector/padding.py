"""Which part of a padded batch is image: masks and valid ratios of every level, from the image sizes.

Images lie in the upper left corner of the batch's canvas. A cell is padding if its first pixel is, as when the pixel
mask is resized by nearest neighbour.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def is_padded(image_sizes: Sequence[tuple[int, int]], canvas_hw: tuple[int, int]) -> bool:
    """Whether any image of the batch is smaller than the canvas."""
    return any(tuple(size) != tuple(canvas_hw) for size in image_sizes)


def padding_masks(
    image_sizes: Sequence[tuple[int, int]],
    canvas_hw: tuple[int, int],
    shapes_hw: Sequence[tuple[int, int]],
    device: torch.device | str,
) -> list[Tensor]:
    """Masks (B, H_l, W_l) of the levels, bool, True where padded.

    Args:
        image_sizes: (height, width) of B images in pixels.
        canvas_hw: size of the padded batch in pixels.
        shapes_hw: (height, width) of every level.
        device: where the masks go; the host does not wait for it.
    """
    heights, widths = sizes_tensor(image_sizes, device).unbind(-1)
    masks = []
    for cells_hw in shapes_hw:
        first_y, first_x = (
            torch.arange(cells, device=device) * pixels // cells for cells, pixels in zip(cells_hw, canvas_hw)
        )
        below, right = first_y >= heights[:, None], first_x >= widths[:, None]
        masks.append(below[:, :, None] | right[:, None, :])
    return masks


def valid_ratios(
    image_sizes: Sequence[tuple[int, int]], canvas_hw: tuple[int, int], num_levels: int, device: torch.device | str
) -> Tensor:
    """(B, num_levels, 2), float32: the share of the canvas that each image covers, (x, y).

    In pixels, not in whole cells: so cells of all levels that lie on one pixel get one normalised coordinate, and it is
    the one that the boxes are measured in. Where the levels tile the image, counting cells gives the same.
    """
    canvas = sizes_tensor([canvas_hw], device)
    ratios = (sizes_tensor(image_sizes, device) / canvas).flip(-1)  # (h, w) -> (x, y)
    return ratios[:, None].expand(-1, num_levels, -1)


def sizes_tensor(sizes: Sequence[tuple[int, int]], device: torch.device | str) -> Tensor:
    """Integer pairs as an int64 tensor, sent to the device without waiting for it."""
    return torch.tensor([tuple(size) for size in sizes], dtype=torch.int64).to(device, non_blocking=True)
