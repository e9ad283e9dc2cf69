"""Evaluation: the loop over a data set, and COCO's box AP."""

from dinov2_detrex.engine import reexport

from .evaluator import DatasetEvaluator, DatasetEvaluators, inference_context, inference_on_dataset
from .testing import print_csv_format

__all__ = [
    "COCOEvaluator",
    "DatasetEvaluator",
    "DatasetEvaluators",
    "inference_context",
    "inference_on_dataset",
    "print_csv_format",
]
__getattr__ = reexport(__name__, "COCOEvaluator")
