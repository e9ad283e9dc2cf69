"""What do resampled patch kernels and their features look like, side by side? (matplotlib, from the extra `plot`)"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from dinov2_detrex.visualization.feature_colours import as_colours
from dinov2_detrex.visualization.figures import new_figure, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

KERNEL_ROWS, KERNEL_COLUMNS = 4, 6


def kernel_sheet(kernel: torch.Tensor) -> np.ndarray:
    """The first filters of (C, 3, p, p) as a sheet of RGB tiles in 0..1: grey is zero, each filter on its own scale."""
    filters = kernel[: KERNEL_ROWS * KERNEL_COLUMNS, :3].permute(0, 2, 3, 1)
    scaled = 0.5 + filters / (2 * filters.abs().amax(dim=(1, 2, 3), keepdim=True).clamp_min(1e-12))
    framed = F.pad(scaled, (0, 0, 1, 1, 1, 1), value=1.0)  # a white line around each
    return torch.cat([torch.cat(list(row), dim=1) for row in framed.split(KERNEL_COLUMNS)], dim=0).numpy()


def draw(
    kernels: Mapping[str, torch.Tensor],
    feature_maps: Mapping[str, Sequence[torch.Tensor]],
    images: Sequence[Image.Image],
    path: Path,
) -> None:
    """Save the figure: histograms and kernels in the first row, then each image and its features in one row.

    Args:
        kernels: variant -> (C, 3, p, p).
        feature_maps: variant -> one (H, W, C) map for each image; the first variant gives the colours.
        images: RGB.
        path: where the figure goes; folders are created.

    Raises:
        MissingPackageError: without matplotlib.
    """
    rows, columns = 1 + len(images), 1 + len(kernels)
    figure = new_figure((3.4 * columns, 2.9 * rows), dpi=110)
    axes = figure.subplots(rows, columns, squeeze=False)
    _draw_kernels(axes[0], kernels)
    for row, (axes_row, image) in enumerate(zip(axes[1:], images)):
        _draw_features(axes_row, image, {name: maps[row] for name, maps in feature_maps.items()})
    save_figure(figure, path)


def _draw_kernels(axes_row: Sequence["Axes"], kernels: Mapping[str, torch.Tensor]) -> None:
    edge = max(kernel.abs().quantile(0.999).item() for kernel in _samples(kernels))
    for name, kernel in zip(kernels, _samples(kernels)):
        axes_row[0].hist(kernel.numpy(), bins=80, range=(-edge, edge), histtype="step", density=True, label=name)
    axes_row[0].set_title("kernel weights, density", fontsize=9)
    axes_row[0].set_yscale("log")
    axes_row[0].legend(fontsize=7)
    for axes, (name, kernel) in zip(axes_row[1:], kernels.items()):
        _show(axes, kernel_sheet(kernel), f"kernels, {name}")


def _samples(kernels: Mapping[str, torch.Tensor], limit: int = 200_000) -> list[torch.Tensor]:
    """At most `limit` weights of each kernel, evenly spaced."""
    return [kernel.flatten()[:: max(1, kernel.numel() // limit)] for kernel in kernels.values()]


def _draw_features(axes_row: Sequence["Axes"], image: Image.Image, maps: Mapping[str, torch.Tensor]) -> None:
    _show(axes_row[0], np.asarray(image.convert("RGB")), f"image, {image.width} x {image.height}")
    native = next(iter(maps.values()))
    for axes, (name, feature_map), colours in zip(axes_row[1:], maps.items(), as_colours(list(maps.values()))):
        cosine = F.cosine_similarity(feature_map, native, dim=-1).mean().item()
        _show(axes, colours, f"features, {name}\n(cosine to the first {cosine:.4f})")


def _show(axes: "Axes", image: np.ndarray, title: str) -> None:
    axes.imshow(image, interpolation="nearest")
    axes.set_title(title, fontsize=9)
    axes.axis("off")
