"""The part of a polygon that lies in a rectangle, which for a concave polygon may be several pieces.

Sutherland and Hodgman (1974) clip at one side of the window after the other; pieces of a concave polygon then hang
together by edges that run along the sides, there and back. Those cancel, and what is left falls into separate loops.
"""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

Point = tuple[float, float]


def clip_polygon(polygon: np.ndarray, window_xyxy: Sequence[float]) -> list[np.ndarray]:
    """Cut a polygon at the sides of a window.

    Args:
        polygon: (N, 2) corners x, y, in either direction of rotation.
        window_xyxy: x0, y0, x1, y1.

    Returns:
        (M, 2) float64 pieces, possibly none; pieces without area are left out.
    """
    points = [(float(x), float(y)) for x, y in polygon]
    x0, y0, x1, y1 = map(float, window_xyxy)
    for axis, limit, sign in ((0, x0, 1), (0, x1, -1), (1, y0, 1), (1, y1, -1)):
        points = _keep_one_side(points, axis, limit, sign)
    pieces = (np.array(loop) for loop in _loops(_cancel_opposite_edges(points)))
    return [piece for piece in pieces if len(piece) >= 3 and abs(_signed_area(piece)) > 0]


def _keep_one_side(points: list[Point], axis: int, limit: float, sign: int) -> list[Point]:
    """The part of a closed chain where sign * (coordinate - limit) >= 0."""
    kept = []
    for start, end in zip(points[-1:] + points[:-1], points):
        start_in, end_in = (sign * (point[axis] - limit) >= 0 for point in (start, end))
        if start_in != end_in:
            kept.append(_crossing(start, end, axis, limit))
        if end_in:
            kept.append(end)
    return kept


def _crossing(start: Point, end: Point, axis: int, limit: float) -> Point:
    """Where the edge meets the line; its coordinate on `axis` is exactly `limit`."""
    t = (limit - start[axis]) / (end[axis] - start[axis])
    other = start[1 - axis] + t * (end[1 - axis] - start[1 - axis])
    return (limit, other) if axis == 0 else (other, limit)


def _cancel_opposite_edges(points: list[Point]) -> list[tuple[Point, Point]]:
    """Edges of a closed chain; upright and level ones that cover each other in opposite directions annihilate."""
    edges = []
    on_line: dict[tuple[int, float], list[tuple[float, float]]] = defaultdict(list)
    for start, end in zip(points[-1:] + points[:-1], points):
        for axis in (0, 1):
            if start[axis] == end[axis]:
                on_line[axis, start[axis]].append((start[1 - axis], end[1 - axis]))
                break
        else:
            edges.append((start, end))
    for (axis, limit), spans in on_line.items():
        for begin, end in _net_spans(spans):
            edges.append(((limit, begin), (limit, end)) if axis == 0 else ((begin, limit), (end, limit)))
    return edges


def _net_spans(spans: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """What is left of directed spans on a line once opposite ones have cancelled."""
    stops = sorted({stop for span in spans for stop in span})
    left = []
    for low, high in zip(stops, stops[1:]):
        net = sum((a <= low and b >= high) - (b <= low and a >= high) for a, b in spans)
        left += [(low, high) if net > 0 else (high, low)] * abs(net)
    return left


def _loops(edges: list[tuple[Point, Point]]) -> list[list[Point]]:
    """Closed walks that use every directed edge once."""
    following: dict[Point, list[Point]] = defaultdict(list)
    for start, end in edges:
        following[start].append(end)
    loops = []
    for start in list(following):
        while following[start]:
            loop, point = [], start
            while following[point]:
                loop.append(point)
                point = following[point].pop()
            loops.append(loop)
    return loops


def _signed_area(polygon: np.ndarray) -> float:
    x, y = polygon.T
    return 0.5 * float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))
