"""How is a chart drawn for a page? Lines over axes as an SVG that stays sharp at any width, coloured by the page."""

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

WIDTH, HEIGHT = 400, 250
LEFT, RIGHT, TOP, BOTTOM = 48, 16, 10, 38
COLOURS = 8  # classes s0..s7 of the page; further lines are dashed
_MOST_POINTS = 240
_NARROWEST = 1e-9


@dataclass(frozen=True)
class Line:
    """One line: name for the legend, x and y (T,); NaN interrupts it."""

    name: str
    x: Sequence[float] | np.ndarray
    y: Sequence[float] | np.ndarray


@dataclass(frozen=True)
class Chart:
    """Lines over common axes.

    Attributes:
        title: says what is shown, also to those who hear the page.
        x_label, y_label: with units.
        lines: in the order of the legend.
        x_range, y_range: (low, high); None for that of the points.
        mark: an x that is marked by a vertical line.
    """

    title: str
    x_label: str
    y_label: str
    lines: list[Line] = field(default_factory=list)
    x_range: tuple[float, float] | None = None
    y_range: tuple[float, float] | None = None
    mark: float | None = None

    def legend(self) -> list[tuple[str, str]]:
        """(style, name) of each line; [] for one line alone, which the title names."""
        return [(style_of(i), line.name) for i, line in enumerate(self.lines)] if len(self.lines) > 1 else []


def style_of(index: int) -> str:
    """The style classes of a line by its place."""
    dashes = ("", " dash", " dot")
    return f"s{index % COLOURS}{dashes[index // COLOURS % len(dashes)]}"


def svg(chart: Chart) -> str:
    """The chart without its legend, as an SVG element."""
    x_range = chart.x_range or _range([line.x for line in chart.lines])
    y_range = chart.y_range or _range([line.y for line in chart.lines])
    axes = _Axes(x_range, y_range)
    parts = [_grid(axes, chart), *(_path(axes, line, style_of(i)) for i, line in enumerate(chart.lines))]
    if chart.mark is not None:
        x = axes.x(chart.mark)
        parts.append(f'<line class="mark" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>')
    title = html.escape(chart.title)
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{title}"><title>{title}</title>'
        f"{''.join(parts)}</svg>"
    )


@dataclass(frozen=True)
class _Axes:
    """From values to the SVG's units."""

    x_range: tuple[float, float]
    y_range: tuple[float, float]

    def x(self, value: float) -> float:
        low, high = self.x_range
        return LEFT + (value - low) / (high - low) * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        low, high = self.y_range
        return HEIGHT - BOTTOM - (value - low) / (high - low) * (HEIGHT - TOP - BOTTOM)


def _range(values: Sequence[Sequence[float] | np.ndarray]) -> tuple[float, float]:
    """That of all finite values, and not of no width."""
    flat = np.concatenate([np.asarray(one, dtype=np.float64) for one in values]) if values else np.zeros(0)
    flat = flat[np.isfinite(flat)]
    if not len(flat):
        return 0.0, 1.0
    low, high = float(flat.min()), float(flat.max())
    if high - low > max(abs(high), abs(low)) * _NARROWEST:
        return low, high
    return (low - abs(low) / 2, high + abs(high) / 2) if low else (-1.0, 1.0)


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round values within a range, 1, 2 or 5 times a power of ten apart."""
    step = 10.0 ** math.floor(math.log10((high - low) / about))
    step *= next(factor for factor in (1, 2, 5, 10) if (high - low) / (step * factor) <= about)
    first = math.ceil(low / step - 1e-9)
    return [index * step for index in range(first, math.floor(high / step + 1e-9) + 1)]


def short(value: float) -> str:
    """A tick's label: 20000 -> 20k, 0.30000000000000004 -> 0.3, 0.0004 -> 4e-4."""
    if abs(value) >= 1e6:
        return f"{value / 1e6:.4g}M"
    if abs(value) >= 1e4:
        return f"{value / 1e3:.4g}k"
    if 0 < abs(value) < 1e-2:
        digits, _, power = f"{value:.2e}".partition("e")
        return f"{float(digits):g}e{int(power)}"
    return f"{value:.4g}" if value else "0"


def _grid(axes: _Axes, chart: Chart) -> str:
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    parts = []
    for value in ticks(*axes.y_range):
        y = axes.y(value)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{LEFT - 5}" y="{y + 4:.1f}" text-anchor="end">{short(value)}</text>')
    for value in ticks(*axes.x_range):
        x = axes.x(value)
        parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{bottom}" y2="{bottom + 4}"/>')
        parts.append(f'<text x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">{short(value)}</text>')
    middle = (LEFT + right) / 2
    parts.append(f'<text x="{middle}" y="{HEIGHT - 5}" text-anchor="middle">{html.escape(chart.x_label)}</text>')
    height = (TOP + bottom) / 2
    turned = f'transform="rotate(-90 11 {height})"'
    parts.append(f'<text x="11" y="{height}" text-anchor="middle" {turned}>{html.escape(chart.y_label)}</text>')
    return "".join(parts)


def _path(axes: _Axes, line: Line, style: str) -> str:
    x, y = fewer(np.asarray(line.x, dtype=np.float64), np.asarray(line.y, dtype=np.float64))
    steps, pen_down = [], False
    for one_x, one_y in zip(x.tolist(), y.tolist()):
        if math.isfinite(one_y):
            steps.append(f"{'L' if pen_down else 'M'}{axes.x(one_x):.1f} {axes.y(one_y):.1f}")
        pen_down = math.isfinite(one_y)
    if np.isfinite(y).sum() == 1:  # a path of one point shows nothing
        at = int(np.flatnonzero(np.isfinite(y))[0])
        return f'<circle class="{style}" cx="{axes.x(float(x[at])):.1f}" cy="{axes.y(float(y[at])):.1f}" r="3"/>'
    return f'<path class="{style}" d="{"".join(steps)}"/>' if steps else ""


def fewer(x: np.ndarray, y: np.ndarray, most: int = _MOST_POINTS) -> tuple[np.ndarray, np.ndarray]:
    """No more points than can be seen: of each stretch the least and the greatest value, so that peaks stay."""
    if len(x) <= most:
        return x, y
    chosen = [0, len(x) - 1]
    for rows in np.array_split(np.arange(len(x)), most // 2):
        finite = rows[np.isfinite(y[rows])]
        chosen += [int(finite[y[finite].argmin()]), int(finite[y[finite].argmax()])] if len(finite) else [int(rows[0])]
    rows = np.unique(chosen)
    return x[rows], y[rows]
