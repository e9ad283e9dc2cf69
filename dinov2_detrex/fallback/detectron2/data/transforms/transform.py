"""Transforms beside fvcore's: resizing as Pillow does it, cropping that also cuts polygons, colour operations."""

from collections.abc import Callable
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from fvcore.transforms import transform as fvcore_transform
from fvcore.transforms.transform import NoOpTransform, Transform
from PIL import Image

from .polygon_clipping import clip_polygon

# Pillow's resamplings as the plain ints that reprs and pickles show.
NEAREST: int = Image.Resampling.NEAREST.value
BILINEAR: int = Image.Resampling.BILINEAR.value
BICUBIC: int = Image.Resampling.BICUBIC.value
_TORCH_MODE = {NEAREST: "nearest", BILINEAR: "bilinear", BICUBIC: "bicubic"}


class ResizeTransform(Transform):
    """Resize to (new_h, new_w): uint8 with Pillow, which antialiases, other dtypes with torch, which does not.

    Args:
        h, w: size of the input, which is checked.
        new_h, new_w: size of the output.
        interp: a resampling of Pillow; default bilinear.
    """

    def __init__(self, h: int, w: int, new_h: int, new_w: int, interp: int | None = None):
        super().__init__()
        self.h, self.w, self.new_h, self.new_w = h, w, new_h, new_w
        self.interp = BILINEAR if interp is None else interp

    def apply_image(self, img: np.ndarray, interp: int | None = None) -> np.ndarray:
        """(H, W) or (H, W, C) of the declared size, dtype kept; AssertionError for another size."""
        assert img.shape[:2] == (self.h, self.w), f"expected an image of {(self.h, self.w)}, got {img.shape[:2]}"
        interp = self.interp if interp is None else interp
        resized = (self._with_pillow if img.dtype == np.uint8 else self._with_torch)(img, interp)
        return resized.reshape(resized.shape[:2] + img.shape[2:])

    def _with_pillow(self, img: np.ndarray, interp: int) -> np.ndarray:
        pixels = img[:, :, 0] if img.ndim == 3 and img.shape[2] == 1 else img
        return np.asarray(Image.fromarray(np.ascontiguousarray(pixels)).resize((self.new_w, self.new_h), interp))

    def _with_torch(self, img: np.ndarray, interp: int) -> np.ndarray:
        mode = _TORCH_MODE[interp]
        work = img if np.issubdtype(img.dtype, np.floating) else img.astype(np.float64)  # exact for labels
        tensor = torch.from_numpy(np.ascontiguousarray(work).reshape(self.h, self.w, -1)).permute(2, 0, 1)[None]
        align_corners = None if mode == "nearest" else False
        resized = F.interpolate(tensor, (self.new_h, self.new_w), mode=mode, align_corners=align_corners)
        return resized[0].permute(1, 2, 0).numpy().astype(img.dtype)  # 1 C H W -> H W C

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        """(N, 2) x, y, scaled: floats in place, integers as a new array in float64."""
        coords = coords if np.issubdtype(coords.dtype, np.floating) else coords.astype(np.float64)
        coords[:, 0] *= self.new_w / self.w
        coords[:, 1] *= self.new_h / self.h
        return coords

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        """Nearest neighbour, so that labels stay labels."""
        return self.apply_image(segmentation, interp=NEAREST)

    def inverse(self) -> "ResizeTransform":
        return ResizeTransform(self.new_h, self.new_w, self.h, self.w, self.interp)


class CropTransform(fvcore_transform.CropTransform):
    """fvcore's crop, which also cuts polygons at its window: they may fall into pieces or vanish."""

    # set by fvcore's constructor
    x0: int
    y0: int
    w: int
    h: int
    orig_w: int | None
    orig_h: int | None

    def apply_polygons(self, polygons: list[np.ndarray]) -> list[np.ndarray]:
        """(N, 2) polygons to those of the cropped image, in float64."""
        window = (self.x0, self.y0, self.x0 + self.w, self.y0 + self.h)
        pieces = [piece for polygon in polygons for piece in clip_polygon(polygon, window)]
        return [self.apply_coords(piece) for piece in pieces]


class PadTransform(fvcore_transform.PadTransform):
    """fvcore's padding; its inverse is the crop above."""

    def inverse(self) -> CropTransform:
        crop = cast(CropTransform, super().inverse())  # fvcore's, which has the same attributes
        return CropTransform(crop.x0, crop.y0, crop.w, crop.h, orig_w=crop.orig_w, orig_h=crop.orig_h)


class ColorTransform(Transform):
    """Applies `op`, from pixels to pixels of the same shape; coordinates stay.

    Args:
        op: takes and returns an array (H, W, C).
    """

    def __init__(self, op: Callable):
        if not callable(op):
            raise ValueError(f"op must be a function on pixels, got {type(op).__name__}")
        super().__init__()
        self.op = op

    def apply_image(self, img: np.ndarray) -> np.ndarray:
        return self.op(img)

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        return coords

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        return segmentation

    def inverse(self) -> NoOpTransform:
        return NoOpTransform()


class PILColorTransform(ColorTransform):
    """As `ColorTransform`, with an `op` that takes and returns a Pillow image, e.g. from `ImageEnhance`."""

    def apply_image(self, img: np.ndarray) -> np.ndarray:
        return np.asarray(self.op(Image.fromarray(np.ascontiguousarray(img))))
