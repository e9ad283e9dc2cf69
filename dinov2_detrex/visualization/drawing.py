"""How are objects drawn into a picture of any size so that boxes, labels and what lies below can be seen?"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from dinov2_detrex.visualization.colours import class_colour, text_colour

SMALLEST_PX = 400  # long side of a drawing; smaller pictures are enlarged by a whole number
MASK_OPACITY = 0.45
Rectangle = tuple[int, int, int, int]  # x0, y0, x1, y1 in pixels

_FONT_PX = (11, 160)
_FONT_SHARE, _SMALLER_FONT_SHARE = 1 / 55, 1 / 130  # of the long side; the second where objects are small
_FONT_OF_OBJECT = 0.3  # of the short side of the typical object, between the two
_LINE_SHARE = 1 / 450
_COVERED_BOX = 0.25  # what covering a pixel of another object counts beside one of another label


@dataclass(frozen=True)
class Pen:
    """Sizes in pixels: of the text, and of the lines."""

    font_px: int
    line_px: int


SHEET_PEN = Pen(font_px=11, line_px=2)  # for small pictures beside others


def enlargement(image_hw: tuple[int, int]) -> int:
    """By how much a picture is enlarged before it is drawn on: 1 from 400 pixels on."""
    return max(1, -(-SMALLEST_PX // max(image_hw)))


def pen_for(image_hw: tuple[int, int], boxes_xyxy: np.ndarray) -> Pen:
    """Sizes that can be read when the whole picture fills a screen, smaller where it is full of small objects.

    Args:
        image_hw: (height, width) of the drawing.
        boxes_xyxy: (N, 4) in its pixels.
    """
    long_side = max(image_hw)
    typical = float(np.median(np.minimum(*(boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]).T))) if len(boxes_xyxy) else np.inf
    font = np.clip(_FONT_OF_OBJECT * typical, _SMALLER_FONT_SHARE * long_side, _FONT_SHARE * long_side)
    font_px = round(float(np.clip(font, *_FONT_PX)))
    return Pen(font_px, max(2, round(_LINE_SHARE * long_side)))


def load_font(size_px: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    """Pillow's own font, whose size is fixed where it was built without FreeType or is older than 10.1."""
    try:
        return ImageFont.load_default(size=size_px)
    except (TypeError, ImportError):
        return ImageFont.load_default()


def draw_objects(
    image: Image.Image,
    boxes_xyxy: np.ndarray,
    class_indices: Sequence[int],
    labels: Sequence[str],
    masks: np.ndarray | None = None,
    pen: Pen | None = None,
) -> Image.Image:
    """A copy of the image with its objects, the first ones on top.

    Small images are enlarged, so that labels have room: the result is larger by `enlargement`.

    Args:
        image: of any mode.
        boxes_xyxy: (N, 4) in pixels of the image.
        class_indices: N, for the colours.
        labels: N texts.
        masks: (N, H, W) bool, painted over the objects.
        pen: sizes; None takes those that suit the image.
    """
    factor = enlargement((image.height, image.width)) if pen is None else 1
    image = image.convert("RGB")
    if masks is not None:
        image = paint_masks(image, masks, class_indices)
    if factor > 1:
        image = image.resize((image.width * factor, image.height * factor), Image.Resampling.BICUBIC)
    boxes = np.asarray(boxes_xyxy, dtype=np.float64).reshape(-1, 4) * factor
    return draw_boxes(image, boxes, class_indices, labels, pen or pen_for((image.height, image.width), boxes))


def draw_boxes(
    image: Image.Image,
    boxes_xyxy: np.ndarray,
    class_indices: Sequence[int],
    labels: Sequence[str],
    pen: Pen = SHEET_PEN,
) -> Image.Image:
    """A copy of the image, of the same size, with labelled boxes, the first ones on top; arguments as above."""
    image = image.convert("RGB")
    draw, font = ImageDraw.Draw(image), load_font(pen.font_px)
    for box, index in reversed(list(zip(boxes_xyxy, class_indices))):
        x0, y0, x1, y1 = (float(value) for value in box)
        draw.rectangle((x0, y0, max(x0, x1), max(y0, y1)), outline=class_colour(index), width=pen.line_px)
    sizes = [_text_size(draw, label, font, pen) for label in labels]
    places = place_labels(sizes, boxes_xyxy, (image.height, image.width))
    for place, index, label in reversed(list(zip(places, class_indices, labels))):
        colour = class_colour(index)
        draw.rectangle((place[0], place[1], place[2] - 1, place[3] - 1), fill=colour)
        draw.text((place[0] + _pad(pen), place[1]), label, fill=text_colour(colour), font=font)
    return image


def paint_masks(image: Image.Image, masks: np.ndarray, class_indices: Sequence[int]) -> Image.Image:
    """A copy of an RGB image with every mask (N, H, W) in its class's colour, the first ones on top."""
    pixels = np.asarray(image).copy()
    for mask, index in reversed(list(zip(masks, class_indices))):
        below = pixels[mask].astype(np.float32)
        pixels[mask] = ((1 - MASK_OPACITY) * below + MASK_OPACITY * np.array(class_colour(index))).round()
    return Image.fromarray(pixels)


def _pad(pen: Pen) -> int:
    return max(1, pen.font_px // 8)


def _text_size(draw: ImageDraw.ImageDraw, label: str, font, pen: Pen) -> tuple[int, int]:
    """(width, height) of a label with the space around it."""
    width, height = draw.textbbox((0, 0), label, font=font)[2:]
    return int(width) + 2 * _pad(pen), int(height) + _pad(pen)


# ------------------------------------------------------------------------------------------------- places of labels


def place_labels(
    sizes: Sequence[tuple[int, int]], boxes_xyxy: np.ndarray, image_hw: tuple[int, int]
) -> list[Rectangle]:
    """Where labels go: beside or in their box, inside the picture, over as little of other labels as can be.

    The first labels choose first. Of places that are equally free, one that covers less of other objects is taken, then
    the one above the upper left corner.

    Args:
        sizes: (width, height) of N labels.
        boxes_xyxy: (N, 4).
        image_hw: (height, width).

    Returns:
        N rectangles.
    """
    boxes = np.asarray(boxes_xyxy, dtype=np.float64).reshape(-1, 4)
    placed = np.zeros((len(sizes), 4))
    for i, (size, box) in enumerate(zip(sizes, boxes)):
        candidates = np.array(list(_inside(_candidates(size, box), size, image_hw)))
        covered = _shared_area(candidates, placed[:i]).sum(1)
        objects = _shared_area(candidates, np.delete(boxes, i, axis=0)).sum(1)
        placed[i] = candidates[np.argmin((covered + _COVERED_BOX * objects).round(3))]
    return [(int(x0), int(y0), int(x1), int(y1)) for x0, y0, x1, y1 in placed]


def _candidates(size: tuple[int, int], box: np.ndarray) -> Iterator[tuple[float, float]]:
    """Upper left corners of a label around and in its box, the most usual first."""
    width, height = size
    x0, y0, x1, y1 = box
    lefts = (x0, x1 - width, (x0 + x1 - width) / 2)
    for top in (y0 - height, y1, y0, y1 - height):  # above, below, then inside
        for left in lefts:
            yield left, top
    for top in (y0, y1 - height):  # beside
        yield x1, top
        yield x0 - width, top


def _inside(corners: Iterable[tuple[float, float]], size: tuple[int, int], image_hw: tuple[int, int]):
    """Rectangles of whole pixels, moved into the picture where they reach over its edge."""
    width, height = size
    for left, top in corners:
        x = round(min(max(left, 0), max(image_hw[1] - width, 0)))
        y = round(min(max(top, 0), max(image_hw[0] - height, 0)))
        yield x, y, x + width, y + height


def _shared_area(ones: np.ndarray, others: np.ndarray) -> np.ndarray:
    """(A, B) pixels that rectangles (A, 4) share with others (B, 4)."""
    low = np.maximum(ones[:, None, :2], others[None, :, :2])
    high = np.minimum(ones[:, None, 2:], others[None, :, 2:])
    return (high - low).clip(min=0).prod(axis=2)
