"""What things cost: parameters, FLOPs and memory of a model by part, patch resampling, and the benchmarks."""

from dinov2_detrex.analysis.cost import analyze, count_flops, count_parameters, random_inputs, saved_activations
from dinov2_detrex.config.pretrained import without_pretrained

__all__ = [
    "analyze",
    "count_flops",
    "count_parameters",
    "random_inputs",
    "saved_activations",
    "without_pretrained",
]
