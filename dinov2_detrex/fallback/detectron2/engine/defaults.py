"""Which writers does a training run have by default?"""

import os

from ..utils.events import CommonMetricPrinter, EventWriter, JSONWriter, TensorboardXWriter

__all__ = ["default_writers"]


def default_writers(output_dir: str, max_iter: int | None = None) -> list[EventWriter]:
    """Log lines, `<output_dir>/metrics.json` and TensorBoard; the folder is made."""
    os.makedirs(output_dir, exist_ok=True)
    return [
        CommonMetricPrinter(max_iter),
        JSONWriter(os.path.join(output_dir, "metrics.json")),
        TensorboardXWriter(output_dir),
    ]
