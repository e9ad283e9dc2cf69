"""Results of an evaluation as flat names and as lines to paste into a spreadsheet."""

import logging
from collections.abc import Mapping

logger = logging.getLogger(__name__)


def print_csv_format(results: Mapping) -> None:
    """Log {task: {metric: value}} as three lines per task; metrics with "-" in their name (per class) are left out."""
    if not isinstance(results, Mapping):
        raise TypeError(f"results are a mapping of tasks, got {type(results).__name__}")
    for task, metrics in results.items():
        if not isinstance(metrics, Mapping):
            logger.info("copypaste: %s=%s", task, metrics)
            continue
        shown = {name: value for name, value in metrics.items() if "-" not in name}
        logger.info("copypaste: Task: %s", task)
        logger.info("copypaste: %s", ",".join(shown))
        logger.info("copypaste: %s", ",".join(f"{value:.4f}" for value in shown.values()))


def flatten_results_dict(results: Mapping) -> dict:
    """{"bbox": {"AP": 1.0}} -> {"bbox/AP": 1.0}, at any depth."""
    flat = {}
    for key, value in results.items():
        if isinstance(value, Mapping):
            flat.update({f"{key}/{name}": leaf for name, leaf in flatten_results_dict(value).items()})
        else:
            flat[key] = value
    return flat
