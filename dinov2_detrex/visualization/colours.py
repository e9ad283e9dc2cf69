"""Which colour does a class get, so that no two of a hundred are taken for each other, and text on it can be read?

Colours are compared in Oklab (Ottosson 2020, "A perceptual color space for image processing"), where distances are
about as large as they look.
"""

import functools

import numpy as np

RGB = tuple[int, int, int]

DISTINCT = 128  # classes before colours come again
_FIRST = (255, 64, 64)
_LEVELS = 16  # of each channel, from which colours are chosen
_LIGHTNESS = (0.52, 0.95)  # of Oklab, 0..1: visible on dark and on light pictures
_MIN_CHROMA = 0.06  # greys are the picture's own
_TO_CONES = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
)
_TO_LAB = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
)


def class_colour(index: int) -> RGB:
    """The colour of a class: as far as can be from those of all classes before it; after 128 they come again."""
    return _palette()[index % DISTINCT]


def text_colour(background: RGB) -> RGB:
    """Black or white, whichever stands out more (WCAG 2.2, contrast ratio)."""
    luminance = float(_linear(np.array(background)) @ [0.2126, 0.7152, 0.0722])
    return (0, 0, 0) if (luminance + 0.05) / 0.05 >= 1.05 / (luminance + 0.05) else (255, 255, 255)


def oklab(rgb: np.ndarray) -> np.ndarray:
    """sRGB 0..255 (..., 3) in Oklab: lightness 0..1, then green to red and blue to yellow, each about -0.4..0.4."""
    return np.cbrt(_linear(rgb) @ _TO_CONES.T) @ _TO_LAB.T


def _linear(rgb: np.ndarray) -> np.ndarray:
    """sRGB 0..255 as intensities 0..1 (IEC 61966-2-1)."""
    values = np.asarray(rgb, dtype=np.float64) / 255
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


@functools.cache
def _palette() -> list[RGB]:
    """Colours that each lie farthest from those before."""
    steps = np.linspace(0, 255, _LEVELS).round().astype(np.int64)
    candidates = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), axis=-1).reshape(-1, 3)
    lab = oklab(candidates)
    bright = (lab[:, 0] > _LIGHTNESS[0]) & (lab[:, 0] < _LIGHTNESS[1])
    usable = bright & (np.hypot(lab[:, 1], lab[:, 2]) > _MIN_CHROMA)
    candidates, lab = candidates[usable], lab[usable]
    chosen: list[RGB] = [_FIRST]
    nearest = np.linalg.norm(lab - oklab(np.array(_FIRST)), axis=1)
    while len(chosen) < DISTINCT:
        best = int(nearest.argmax())
        chosen.append((int(candidates[best, 0]), int(candidates[best, 1]), int(candidates[best, 2])))
        nearest = np.minimum(nearest, np.linalg.norm(lab - lab[best], axis=1))
    return chosen
