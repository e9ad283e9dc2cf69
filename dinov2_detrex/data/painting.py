"""How are generated pictures painted: backgrounds, polygons with smooth edges, colours that can be told apart.

Every function draws from the random stream that it is given, so a picture is a function of its stream.
"""

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

SUPERSAMPLE = 3
MIN_CONTRAST = 90.0  # distance in RGB, 0..441, between an object and the background behind it


def random_colour(rng: np.random.Generator) -> np.ndarray:
    return rng.uniform(0, 255, 3)


def _gradient(rng: np.random.Generator, image_hw: tuple[int, int]) -> np.ndarray:
    height, width = image_hw
    angle = rng.uniform(0, 2 * math.pi)
    along = (
        math.cos(angle) * np.linspace(-0.5, 0.5, width)[None]
        + math.sin(angle) * np.linspace(-0.5, 0.5, height)[:, None]
    )
    start = random_colour(rng)
    return start + (along[..., None] + 0.5) * (random_colour(rng) - start) * rng.uniform(0.2, 1.0)


def _clouds(rng: np.random.Generator, image_hw: tuple[int, int]) -> np.ndarray:
    height, width = image_hw
    cells = int(rng.integers(2, 7))
    coarse = random_colour(rng) + rng.normal(0, rng.uniform(10, 45), (cells, cells, 3))
    coarse = Image.fromarray(coarse.clip(0, 255).astype(np.uint8))
    return np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), dtype=np.float64)


def _stripes(rng: np.random.Generator, image_hw: tuple[int, int]) -> np.ndarray:
    height, width = image_hw
    angle, period_px = rng.uniform(0, math.pi), rng.uniform(8, 40)
    along = math.cos(angle) * np.arange(width)[None] + math.sin(angle) * np.arange(height)[:, None]
    wave = np.sin(2 * math.pi * along / period_px)[..., None]
    return random_colour(rng) + wave * rng.uniform(-40, 40, 3)


def paint_background(rng: np.random.Generator, image_hw: tuple[int, int]) -> np.ndarray:
    """A gradient, clouds or stripes, often with a few thin lines over it: (H, W, 3) float, 0..255."""
    painter = (_gradient, _clouds, _stripes)[rng.integers(3)]
    background = painter(rng, image_hw).clip(0, 255)
    if rng.random() < 0.5:
        return background
    image = Image.fromarray(background.astype(np.uint8))
    height, width = image_hw
    for _ in range(int(rng.integers(1, 5))):
        ends = rng.uniform(0, 1, 4) * [width, height, width, height]
        ImageDraw.Draw(image).line(ends.tolist(), fill=tuple(random_colour(rng).astype(int).tolist()), width=1)
    return np.asarray(image, dtype=np.float64)


def contrasting_colour(rng: np.random.Generator, behind: np.ndarray, min_contrast: float = MIN_CONTRAST) -> np.ndarray:
    """A random colour at least `min_contrast` away from the mean of the pixels (N, 3) that it will cover."""
    mean = behind.mean(axis=0)
    while True:
        colour = random_colour(rng)
        if np.linalg.norm(colour - mean) >= min_contrast:
            return colour


def coverage(outlines_xy: Sequence[np.ndarray], window_xyxy: np.ndarray) -> np.ndarray:
    """How much of each pixel of the integer window a figure covers, 0..1, by supersampling: (h, w).

    Args:
        outlines_xy: polygons (N, 2) in pixels of the picture: the figure's edge, then its holes.
        window_xyxy: the part of the picture to look at.
    """
    width, height = (window_xyxy[2:] - window_xyxy[:2]).tolist()
    mask = Image.new("L", (width * SUPERSAMPLE, height * SUPERSAMPLE))
    for fill, corners_xy in zip([255] + [0] * len(outlines_xy), outlines_xy):
        local = (corners_xy - window_xyxy[:2]) * SUPERSAMPLE - 0.5  # Pillow's pixel centres lie at integers
        ImageDraw.Draw(mask).polygon(local.ravel().tolist(), fill=fill)
    return np.asarray(mask.resize((width, height), Image.Resampling.BOX), dtype=np.float64) / 255
