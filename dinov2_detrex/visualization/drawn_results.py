"""What did a run predict? A sheet of its evaluation images, ground truth beside predictions."""

import json
from pathlib import Path

from detectron2.config import instantiate
from detectron2.data import MetadataCatalog
from omegaconf import DictConfig

from dinov2_detrex.evaluation.coco import RESULTS_FILE
from dinov2_detrex.visualization.sheets import contact_sheet


def draw_results(cfg: DictConfig, path: str | None = None, max_images: int = 12, score_threshold: float = 0.3) -> Path:
    """Draw the predictions that the last evaluation of a run left on the disk.

    Args:
        cfg: the run's config, with `dataloader.test.dataset` and `dataloader.evaluator.output_dir`.
        path: the image to write; None = `predictions.png` beside the results.
        max_images: number of images, spread evenly over the data set.
        score_threshold: predictions below it are not drawn.

    Returns:
        the path of the image.

    Raises:
        FileNotFoundError: the run has not been evaluated.
    """
    folder = Path(cfg.dataloader.evaluator.output_dir)
    if not (folder / RESULTS_FILE).is_file():
        raise FileNotFoundError(f"{folder / RESULTS_FILE} not found: train or evaluate with this config first")
    records = instantiate(cfg.dataloader.test.dataset)
    metadata = MetadataCatalog.get(cfg.dataloader.test.dataset.names)
    index_of = metadata.thing_dataset_id_to_contiguous_id
    names = {category: metadata.thing_classes[index] for category, index in index_of.items()}
    step = max(1, len(records) // max_images)
    drawn = records[::step][:max_images]
    results = json.loads((folder / RESULTS_FILE).read_text())
    return contact_sheet(
        drawn,
        results,
        names,
        path or folder / "predictions.png",
        max_images=max_images,
        score_threshold=score_threshold,
    )
