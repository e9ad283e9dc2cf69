"""How any image file becomes an 8-bit array: upright, in the channel order asked for, or an error that names the file.

Covers what data sets hold beside plain RGB: grey, grey with alpha, CMYK, palettes with and without transparency,
16-bit PNG and TIFF, EXIF orientation. Transparency is dropped, not blended, as detectron2 does.
"""

import contextlib
import os
import re
from collections.abc import Iterator

import numpy as np
from PIL import Image, ImageOps

from dinov2_detrex.runtime.errors import UserError

_SIXTEEN_BIT = ("I;16", "I;16L", "I;16B", "I;16N", "I")  # Pillow opens some 16-bit files as "I"
_ORIENTATION_TAG = 0x0112
_TURNED = (5, 6, 7, 8)  # orientations that swap height and width


MAX_PIXELS = "DINOV2_DETREX_MAX_PIXELS"  # the environment variable that lifts Pillow's limit, for loader workers too


class UnreadableImage(UserError, OSError):
    """A file that cannot be decoded as an image; the message names it."""


@contextlib.contextmanager
def opened(file_name: str | os.PathLike) -> Iterator[Image.Image]:
    """The image of a file, not decoded yet; raises what Pillow raises.

    A picture beyond Pillow's limit is refused with the way to lift it, `DINOV2_DETREX_MAX_PIXELS=NUMBER`.

    Raises:
        UnreadableImage: the picture has more pixels than the limit.
        UserError: the variable is no number of pixels.
    """
    limit = os.environ.get(MAX_PIXELS)
    if limit:
        if not limit.isdecimal() or int(limit) < 1:
            raise UserError(f"{MAX_PIXELS}={limit!r} is not a number of pixels")
        Image.MAX_IMAGE_PIXELS = int(limit)
    try:
        image = Image.open(file_name)
    except Image.DecompressionBombError as error:
        pixels = re.search(r"[0-9]+", str(error))
        value = pixels.group() if pixels else "NUMBER"
        raise UnreadableImage(
            f"{os.fspath(file_name)} is too large: {error} If it is what it should be, set the environment variable "
            f"{MAX_PIXELS}={value}, or cut it into tiles"
        ) from error
    with image:
        yield image


def _sixteen_to_eight_bit(image: Image.Image) -> Image.Image:
    """The full 16-bit range onto 0..255, so that all files of a camera share one scale: 65535 / 257 = 255."""
    values = np.asarray(image).astype(np.int64)
    if values.min(initial=0) < 0 or values.max(initial=0) > 65535:
        raise ValueError(
            f"its values reach from {values.min()} to {values.max()}, beyond 16 bits: convert it to 8 bits"
        )
    return Image.fromarray(((values + 128) // 257).astype(np.uint8))


def _to_eight_bit(image: Image.Image) -> Image.Image:
    if image.mode in _SIXTEEN_BIT:
        return _sixteen_to_eight_bit(image)
    if image.mode == "F":
        raise ValueError("it holds floating-point numbers of unknown range: convert it to 8 or 16 bits")
    if image.mode == "P":  # by way of alpha, as Pillow asks for palettes with transparency
        return image.convert("RGBA")
    return image


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1..8; 1 where there is none or its block is damaged, which says nothing of the pixels."""
    try:
        return int(image.getexif().get(_ORIENTATION_TAG, 1))
    except Exception:  # Pillow's EXIF parser raises SyntaxError, struct.error, ValueError, KeyError and others
        return 1


def upright(image: Image.Image) -> Image.Image:
    """An image as 8 bit, turned as its EXIF orientation says; the mode is left as it is.

    Raises:
        ValueError: its values have no defined range.
    """
    return _to_eight_bit(ImageOps.exif_transpose(image) if _orientation(image) != 1 else image)


def open_upright(file_name: str | os.PathLike) -> Image.Image:
    """Open and decode a file as an 8-bit image, turned as its EXIF orientation says; the mode is left as it is.

    Raises:
        FileNotFoundError: there is no such file.
        UnreadableImage: it cannot be decoded: no image, truncated, or of a kind without a defined range.
    """
    try:
        with opened(file_name) as image:
            image.load()
            return upright(image)
    except (FileNotFoundError, UserError):
        raise
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error and others
        reason = str(error) or type(error).__name__
        raise UnreadableImage(f"{os.fspath(file_name)} cannot be read as an image: {reason}") from error


def read_image(file_name: str | os.PathLike, image_format: str = "RGB") -> np.ndarray:
    """Read a file as uint8 (H, W, C), upright, writable and contiguous.

    Args:
        file_name: any format that Pillow reads.
        image_format: "RGB", "BGR" or "L" (C = 1).

    Raises:
        ValueError: unknown image_format.
        FileNotFoundError, UnreadableImage: see `open_upright`.
    """
    return pixels_of(open_upright(file_name), image_format)


def pixels_of(image: Image.Image, image_format: str = "RGB") -> np.ndarray:
    """An 8-bit image as `read_image` gives it: uint8 (H, W, C); ValueError for an unknown format."""
    if image_format not in ("RGB", "BGR", "L"):
        raise ValueError(f"image_format={image_format!r}: expected 'RGB', 'BGR' or 'L'")
    pixels = np.array(image.convert("L" if image_format == "L" else "RGB"))
    if image_format == "L":
        return pixels[:, :, None]
    return np.ascontiguousarray(pixels[:, :, ::-1]) if image_format == "BGR" else pixels


def read_stored_hw(file_name: str | os.PathLike) -> tuple[int, int]:
    """(height, width) as stored, before any EXIF rotation, from the header alone; raises what Pillow raises."""
    with opened(file_name) as image:
        return image.height, image.width


def upright_image_hw(file_name: str | os.PathLike) -> tuple[int, int]:
    """(height, width) that `read_image` would return, from the header alone; raises what Pillow raises."""
    with opened(file_name) as image:
        turned = _orientation(image) in _TURNED
        return (image.width, image.height) if turned else (image.height, image.width)
