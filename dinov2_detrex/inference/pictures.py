"""What may be handed to a predictor as pictures? Files, folders, patterns, and what programs hold in memory.

| given | is |
| --- | --- |
| a path | a file; a folder with all pictures below it; or a pattern like "photos/*.jpg", `**` for any folders |
| `PIL.Image` | a picture of any mode, turned as its EXIF data say |
| `numpy` array | (H, W), (H, W, 1 or 3 or 4), RGB, uint8 or uint16; (N, H, W, C) are N pictures |
| `torch` tensor | (C, H, W), C of 1, 3 or 4, RGB, uint8, uint16 or floating point from 0 to 1; (N, C, H, W) are N |
| any other iterable | many of these, read as they are needed |

What an array holds is treated as a file with the same content would be: 16 bits are scaled to 8, transparency is
dropped, grey becomes RGB.
"""

import glob
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from dinov2_detrex.data.image_reading import open_upright, upright
from dinov2_detrex.runtime.errors import UserError

Pictures = Any  # see above


@dataclass(frozen=True)
class Picture:
    """One picture, not read yet.

    Attributes:
        name: its path as given, or "picture 3" for the fourth that has none.
        read: gives it as an upright 8-bit image; raises OSError or ValueError where that cannot be.
        path: of its file, if it is one.
    """

    name: str
    read: Callable[[], Image.Image]
    path: str | None = None


def is_single(pictures: Pictures) -> bool:
    """True for what stands for one picture: an image, an array or tensor of one, or a path of no folder or pattern."""
    if isinstance(pictures, str | os.PathLike):
        return not Path(pictures).is_dir() and not _is_pattern(pictures)
    if isinstance(pictures, np.ndarray | torch.Tensor):
        return pictures.ndim < 4
    return isinstance(pictures, Image.Image)


def count_of(pictures: Pictures) -> int | None:
    """How many there are, None where only reading would tell."""
    if is_single(pictures):
        return 1
    if isinstance(pictures, str | os.PathLike):
        return len(files_of(pictures))
    if not hasattr(pictures, "__len__"):
        return None
    if isinstance(pictures, np.ndarray | torch.Tensor):
        return len(pictures)
    counts = [count_of(item) for item in pictures]
    return sum(count for count in counts if count is not None) if None not in counts else None


def pictures_of(pictures: Pictures) -> Iterator[Picture]:
    """The pictures, in order; nothing is read yet.

    Raises:
        UserError: a folder or pattern without pictures, or a value that is none.
    """
    for number, item in enumerate(_flat(pictures)):
        if isinstance(item, str | os.PathLike):
            yield Picture(os.fspath(item), partial(open_upright, item), os.fspath(item))
        else:
            name = getattr(item, "filename", "") or f"picture {number}"
            yield Picture(str(name), partial(_as_image, item, f"picture {number}"))


def files_of(path: str | os.PathLike) -> list[str]:
    """The files that a path stands for, in alphabetical order: itself, or those below a folder or of a pattern.

    Raises:
        UserError: there are none below the folder, or none that fit the pattern.
    """
    if Path(path).is_dir():
        found = [str(file) for file in sorted(Path(path).rglob("*")) if is_picture_name(file) and file.is_file()]
        if not found:
            raise UserError(f"there is no picture below the folder {os.fspath(path)}")
        return found
    if not _is_pattern(path):
        return [os.fspath(path)]
    found = [file for file in sorted(glob.glob(os.fspath(path), recursive=True)) if os.path.isfile(file)]
    if not found:
        raise UserError(f"no file fits the pattern {os.fspath(path)}")
    return found


def is_picture_name(path: str | os.PathLike) -> bool:
    """True for a name with an ending that Pillow reads, and that is not hidden."""
    path = Path(path)
    form = Image.registered_extensions().get(path.suffix.lower())
    return form in Image.OPEN and form not in ("PDF", "MPEG") and not path.name.startswith(".")


def _is_pattern(path: str | os.PathLike) -> bool:
    return glob.has_magic(os.fspath(path)) and not os.path.lexists(path)


def _flat(pictures: Pictures) -> Iterator[Any]:
    """Single pictures: paths of files, images, arrays of up to three dimensions."""
    if isinstance(pictures, str | os.PathLike):
        yield from files_of(pictures)
    elif is_single(pictures):
        yield pictures
    elif isinstance(pictures, Iterable):
        for item in pictures:
            yield from _flat(item)
    else:
        raise UserError(f"{pictures!r} is no picture; a path, an image, an array or a list of such is needed")


def _as_image(picture: Any, name: str) -> Image.Image:
    try:
        if isinstance(picture, Image.Image):
            return upright(picture)
        if isinstance(picture, torch.Tensor):
            picture = _array_of(picture)
        return Image.fromarray(_eight_bit(_channels_last(picture)))
    except ValueError as error:
        raise UserError(f"{name}: {error}") from error


def _array_of(tensor: torch.Tensor) -> np.ndarray:
    """(C, H, W) or (H, W) -> (H, W, C), floating point from 0 to 1 as uint8."""
    tensor = tensor.detach().cpu()
    if tensor.is_floating_point():
        tensor = tensor.float()
        if tensor.numel() and not (tensor.min() >= 0 and tensor.max() <= 1):
            raise ValueError(
                f"a tensor of floating point reaches from {tensor.min():g} to {tensor.max():g}, not from 0 to 1"
            )
        tensor = (tensor * 255).round().to(torch.uint8)
    return tensor.permute(1, 2, 0).contiguous().numpy() if tensor.ndim == 3 else tensor.numpy()


def _channels_last(pixels: np.ndarray) -> np.ndarray:
    """(H, W) of a grey picture, (H, W, 3) of one in colour."""
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[:, :, 0]
    if pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[2] not in (3, 4)) or 0 in pixels.shape:
        raise ValueError(f"an array of shape {pixels.shape} is no picture; (H, W) and (H, W, 1, 3 or 4) are")
    return pixels[:, :, :3] if pixels.ndim == 3 else pixels


def _eight_bit(pixels: np.ndarray) -> np.ndarray:
    if pixels.dtype == np.uint16:  # as 16-bit files
        pixels = (pixels.astype(np.uint32) + 128) // 257
    elif pixels.dtype != np.uint8:
        raise ValueError(f"an array of {pixels.dtype} has no defined range; uint8 and uint16 have")
    return np.ascontiguousarray(pixels.astype(np.uint8))
