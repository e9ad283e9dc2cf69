"""What does training see? The check's report, the data set's statistics, and augmented batches, for a config.

`visualize(cfg, folder)` writes `augmented.png`, `statistics.png` and `statistics.txt`. The statistics figure needs
matplotlib (`pip install "dinov2_detrex[plot]"`), the rest does not.
"""

import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from detectron2.config import instantiate
from omegaconf import DictConfig
from PIL import Image

from dinov2_detrex.data.check import DatasetReport, check_source
from dinov2_detrex.data.loader import Batch, Record, build_train_loader
from dinov2_detrex.data.registration import class_names_of, source_in_config
from dinov2_detrex.data.source import read_source
from dinov2_detrex.runtime.files import write_text
from dinov2_detrex.visualization.colours import class_colour
from dinov2_detrex.visualization.dataset_statistics import (
    LARGE_PX,
    SMALL_PX,
    DatasetStatistics,
    collect_statistics,
    describe_statistics,
)
from dinov2_detrex.visualization.figures import new_figure, save_figure
from dinov2_detrex.visualization.sheets import assemble, save_picture, tile

if TYPE_CHECKING:  # matplotlib is an extra
    from matplotlib.axes import Axes

_MOST_CLASSES = 30  # bars in the figure


def visualize(cfg: DictConfig, output_dir: str | Path, num_images: int = 16, seed: int = 0) -> bool:
    """Report on the data of a config, and draw it.

    Args:
        cfg: with `dataloader.train` and maybe `dataloader.test`, whose data sets have a `DataSource`.
        output_dir: where the files go; it is created.
        num_images: how many augmented training images are drawn.
        seed: of the augmentation and of the order.

    Returns:
        False where the check found something harmful; then it is printed, and nothing is drawn.
    """
    reports = [report for split in ("train", "test") for report in _check_split(cfg.dataloader, split)]
    for report in reports:
        print("\n".join([report.summary(), *(f"  error: {finding}" for finding in report.harmful)]))
    if any(report.harmful for report in reports):
        return False
    folder = Path(output_dir)
    records = instantiate(cfg.dataloader.train.dataset)
    names = class_names_of(cfg.dataloader.train.dataset.names)
    statistics = collect_statistics(records, names)
    text = describe_statistics(statistics)
    print(text)
    write_text(folder / "statistics.txt", text + "\n")
    draw_statistics(statistics, folder / "statistics.png")
    batches = _batches(cfg.dataloader.train, seed)
    draw_augmented(batches, names, folder / "augmented.png", num_images, _channel_order(cfg))
    print(f"statistics.txt, statistics.png and augmented.png are in {folder}")
    return True


def _check_split(cfg_dataloader: DictConfig, split: str) -> list[DatasetReport]:
    """The report on one loader's data set; none where its loader is absent or its files are unknown."""
    if split not in cfg_dataloader:
        return []
    dataset = cfg_dataloader[split].dataset
    source = source_in_config(dataset, dataset.names)
    if source is None:
        return []
    training = dataset.get("classes_from")
    return [check_source(source, bool(dataset.get("skip_bad_images")), read_source(training) if training else None)]


# -------------------------------------------------------------------------------------------- augmented images


def _channel_order(cfg: DictConfig) -> str:
    mapper = cfg.dataloader.train.get("mapper") or {}
    return mapper.get("img_format") or mapper.get("image_format") or "RGB"


def _batches(cfg_loader: DictConfig, seed: int) -> Iterable[Batch]:
    """What a run with this seed trains on, from its first iteration; read in this process."""
    cfg_loader = cfg_loader.copy()
    if "num_workers" in cfg_loader:
        cfg_loader.num_workers = 0
    return build_train_loader(cfg_loader, seed=seed)


def draw_augmented(
    batches: Iterable[Batch],
    class_names: Sequence[str],
    path: str | Path,
    num_images: int = 16,
    image_format: str = "RGB",
    columns: int = 4,
    tile_px: int = 320,
) -> Path:
    """Save a sheet of model inputs with the boxes that the loss will see.

    Args:
        batches: lists of model inputs with "image" (C, H, W) and, in training, "instances".
        class_names: by contiguous index.
        path: the PNG to write.
        num_images: the first so many.
        image_format: channel order of "image": "RGB", "BGR" or "L".
    """
    inputs = itertools.islice(itertools.chain.from_iterable(batches), num_images)
    cells = [_augmented_cell(item, class_names, image_format, tile_px) for item in inputs]
    rows = [cells[start : start + columns] for start in range(0, len(cells), columns)]
    return save_picture(assemble(rows, tile_px), path)


def _augmented_cell(
    item: Record, class_names: Sequence[str], image_format: str, tile_px: int
) -> tuple[str, Image.Image]:
    pixels = item["image"].permute(1, 2, 0).numpy()  # C H W -> H W C
    pixels = pixels[:, :, ::-1] if image_format == "BGR" else pixels
    image = Image.fromarray(np.ascontiguousarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels))
    boxes: np.ndarray = np.zeros((0, 4))
    classes: list[int] = []
    if "instances" in item:
        boxes, classes = item["instances"].gt_boxes.tensor.numpy(), item["instances"].gt_classes.tolist()
    heading = f"{Path(item['file_name']).name}  {image.width} x {image.height}"
    return heading, tile(image, boxes, classes, [class_names[index] for index in classes], tile_px)


# ---------------------------------------------------------------------------------------------- statistics figure


def draw_statistics(statistics: DatasetStatistics, path: str | Path) -> Path:
    """Save a figure of six panels: classes, object sizes, objects an image, image sizes, centres, shapes of boxes.

    Raises:
        MissingPackageError: matplotlib is not installed.
    """
    figure = new_figure((15, 8.5), "the statistics figure")
    panels = figure.subplots(2, 3).ravel()
    painters = (_draw_classes, _draw_sizes, _draw_counts, _draw_image_sizes, _draw_centres, _draw_aspects)
    for painter, panel in zip(painters, panels):
        painter(panel, statistics)
    save_figure(figure, path)
    return Path(path)


def _draw_classes(panel: "Axes", statistics: DatasetStatistics) -> None:
    counts = np.bincount(statistics.classes, minlength=len(statistics.class_names))
    shown = np.argsort(-counts, kind="stable")[:_MOST_CLASSES]
    colours = [np.array(class_colour(int(index))) / 255 for index in shown]
    bars = panel.barh([statistics.class_names[index] for index in shown], counts[shown], color=colours)
    panel.bar_label(bars, padding=3, fontsize=8)
    panel.invert_yaxis()
    left_out = len(counts) - len(shown)
    panel.set_title("objects of each class" + (f" ({left_out} rarer classes left out)" if left_out else ""))
    panel.margins(x=0.12)


def _draw_sizes(panel: "Axes", statistics: DatasetStatistics) -> None:
    sides = statistics.sides_px[statistics.sides_px > 0]
    if len(sides):
        panel.hist(sides, bins=np.geomspace(sides.min() * 0.99, sides.max() * 1.01, 40), color="tab:blue")
    for bound in (SMALL_PX, LARGE_PX):
        panel.axvline(bound, color="tab:red", linewidth=1)
    _log_axis(panel, 2.0 ** np.arange(0, 14), [f"{2**power}" for power in range(14)])
    panel.set_title(f"object size: sqrt(area) / px (red: {SMALL_PX}, {LARGE_PX})")


def _draw_counts(panel: "Axes", statistics: DatasetStatistics) -> None:
    per_image = statistics.objects_per_image
    bins = min(int(per_image.max(initial=0)) + 1, 50)
    panel.hist(per_image, bins=np.linspace(-0.5, per_image.max(initial=0) + 0.5, bins + 1), color="tab:green")
    panel.set_title(f"objects an image (0: {(per_image == 0).sum()} images)")


def _draw_image_sizes(panel: "Axes", statistics: DatasetStatistics) -> None:
    sizes, counts = np.unique(statistics.image_hw, axis=0, return_counts=True)
    panel.scatter(sizes[:, 1], sizes[:, 0], s=2 + 200 * counts / counts.sum(), alpha=0.5, color="tab:purple")
    panel.set(xlabel="width / px", ylabel="height / px", title=f"image sizes ({len(sizes)} different)")
    panel.set_xlim(left=0)
    panel.set_ylim(bottom=0)


def _draw_centres(panel: "Axes", statistics: DatasetStatistics) -> None:
    centres = statistics.centres_norm
    panel.hist2d(centres[:, 0], centres[:, 1], bins=32, range=[[0, 1], [0, 1]], cmap="viridis")
    panel.invert_yaxis()
    panel.set_title("where the boxes' centres lie in their images")


def _draw_aspects(panel: "Axes", statistics: DatasetStatistics) -> None:
    sides = statistics.boxes_xyxy[:, 2:] - statistics.boxes_xyxy[:, :2]
    sides = sides[(sides > 0).all(axis=1)]
    panel.hist((sides[:, 0] / sides[:, 1]).clip(1 / 8, 8), bins=np.geomspace(1 / 8, 8, 49).tolist(), color="tab:orange")
    _log_axis(panel, 2.0 ** np.arange(-3, 4), ["1/8", "1/4", "1/2", "1", "2", "4", "8"])
    panel.set_title("width over height of the boxes")


def _log_axis(panel: "Axes", ticks: np.ndarray, labels: list[str]) -> None:
    """A logarithmic x axis with these ticks, as far as they lie within the drawn range."""
    panel.set_xscale("log")
    low, high = panel.get_xlim()
    within = [(tick, label) for tick, label in zip(ticks, labels) if low <= tick <= high]
    panel.set_xticks([tick for tick, _ in within], [label for _, label in within])
    panel.minorticks_off()
