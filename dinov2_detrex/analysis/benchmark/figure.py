"""How do time and memory grow with the image and the batch? A figure of a run of `detector` (matplotlib)."""

from typing import TYPE_CHECKING, Any

from dinov2_detrex.visualization.figures import new_figure, save_figure

if TYPE_CHECKING:  # an extra
    from matplotlib.axes import Axes

PANELS = (("s", "seconds"), ("peak, MiB", "peak memory, MiB"))


def draw(run: dict[str, Any], path: str) -> None:
    """Write a figure with a line for each kind of work, batch, dtype and config, over the images' pixels.

    Args:
        run: of `detector.measure`.
        path: ends as matplotlib's formats do.

    Raises:
        MissingPackageError: without matplotlib.
    """
    figure = new_figure((11, 5.5), "--plot")
    panels = figure.subplots(1, len(PANELS))
    for axes, (column, label) in zip(panels, PANELS):
        draw_lines(axes, run["rows"], column)
        axes.set(xlabel="image, megapixels", ylabel=label)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize="small")
    save_figure(figure, path)


def draw_lines(axes: "Axes", rows: list[dict[str, Any]], column: str) -> None:
    """One panel."""
    lines: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        height, width = map(int, row["size"].split(" x "))
        how = ", compiled" if row["compiled"] else ""
        name = f"{row['work']}, batch {row['batch']}, {row['dtype']}{how}, {row['config'].rpartition('/')[2]}"
        lines.setdefault(name, []).append((height * width / 1e6, row[column]))
    for name, points in lines.items():
        axes.plot(*zip(*sorted(points)), marker="o", label=name)
    axes.set_ylim(bottom=0)
