"""How is a figure made and saved? By matplotlib, which is an extra, without a window and whole or not at all."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from dinov2_detrex.runtime.extras import needed
from dinov2_detrex.runtime.files import atomic_write

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def new_figure(size_inches: tuple[float, float], purpose: str = "the figure", dpi: float = 100) -> "Figure":
    """An empty figure whose panels keep clear of each other.

    Raises:
        MissingPackageError: without matplotlib; `purpose` is what needs it.
    """
    return needed("matplotlib.figure", purpose, "plot").Figure(figsize=size_inches, layout="constrained", dpi=dpi)


def save_figure(figure: "Figure", path: str | os.PathLike) -> None:
    """Write it as the suffix says, PNG where there is none; folders are created."""
    with atomic_write(path) as file:
        figure.savefig(file, format=Path(path).suffix[1:] or "png")
