"""Which forms do the generated data sets know? Polygons within the unit circle, upright where y points down."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

Figure = Sequence[np.ndarray]  # polygons (N, 2): the edge, then the holes


def regular_polygon(corners: int) -> np.ndarray:
    """(corners, 2) on the unit circle, the first one at the right."""
    angles = 2 * np.pi * np.arange(corners) / corners
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def star() -> np.ndarray:
    """Five points on the unit circle."""
    return regular_polygon(10) * np.where(np.arange(10) % 2, 0.45, 1.0)[:, None]


def cross() -> np.ndarray:
    """Four equal arms, within the unit circle."""
    arm = [(0.3, 1.0), (-0.3, 1.0), (-0.3, 0.3)]
    points = np.array([(x, y) if turn == 0 else _quarter_turns(x, y, turn) for turn in range(4) for x, y in arm])
    return points / np.linalg.norm(points, axis=1).max()


def _quarter_turns(x: float, y: float, turns: int) -> tuple[float, float]:
    for _ in range(turns):
        x, y = -y, x
    return x, y


def rotated(outline_xy: np.ndarray, angle_rad: float) -> np.ndarray:
    """Corners (N, 2) turned around the origin, from x towards y."""
    cos, sin = math.cos(angle_rad), math.sin(angle_rad)
    return outline_xy @ np.array([[cos, sin], [-sin, cos]])


def polygon_area(corners_xy: np.ndarray) -> float:
    """Area of a simple polygon (N, 2), by the shoelace formula."""
    x, y = corners_xy.T
    return 0.5 * abs(float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))))


def _strip(points: Sequence[tuple[float, float]]) -> np.ndarray:
    """Corners given on any scale, centred by their bounding box and shrunk to fit the unit circle."""
    corners = np.array(points, dtype=np.float64)
    corners -= (corners.min(axis=0) + corners.max(axis=0)) / 2
    return corners / np.linalg.norm(corners, axis=1).max()


def _arc(start_deg: float, end_deg: float, radius: float = 1.0, centre_x: float = 0.0) -> list[tuple[float, float]]:
    angles = np.radians(np.linspace(start_deg, end_deg, 25))
    return list(zip((radius * np.cos(angles) + centre_x).tolist(), (radius * np.sin(angles)).tolist()))


FIGURES: Mapping[str, Figure] = {  # no two are the same turned by 20 degrees
    "disc": [regular_polygon(48)],
    "ring": [regular_polygon(48), 0.55 * regular_polygon(48)],
    "half disc": [_strip(_arc(180, 360))],
    "crescent": [_strip([*_arc(50, 310), *_arc(-100, -260, 0.78, 0.78)])],
    "triangle": [rotated(regular_polygon(3), -math.pi / 2)],
    "square": [rotated(regular_polygon(4), math.pi / 4)],
    "frame": [rotated(regular_polygon(4), math.pi / 4), 0.55 * rotated(regular_polygon(4), math.pi / 4)],
    "star": [rotated(star(), -math.pi / 2)],
    "cross": [cross()],
    "arrow": [_strip([(0, 3), (5, 3), (5, 0), (10, 5), (5, 10), (5, 7), (0, 7)])],
    "angle": [_strip([(0, 0), (4, 0), (4, 6), (10, 6), (10, 10), (0, 10)])],
    "hourglass": [_strip([(0, 0), (8, 0), (5, 5), (8, 10), (0, 10), (3, 5)])],
}
