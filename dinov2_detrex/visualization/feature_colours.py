"""Which cells of a feature map are alike? Its three principal directions as red, green and blue (Oquab et al. 2023)."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F


def principal_directions(feature_map: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean (C,) and three principal directions (C, 3) of an (H, W, C) map; zeros where it has fewer."""
    cells = feature_map.flatten(0, 1)
    centre = cells.mean(0)
    directions = torch.linalg.svd(cells - centre, full_matrices=False).Vh[:3].T
    return centre, F.pad(directions, (0, 3 - directions.shape[1]))


def as_colours(feature_maps: Sequence[torch.Tensor]) -> list[np.ndarray]:
    """(H, W, C) maps as RGB in 0..1, all on the three principal directions and the range of the first."""
    centre, directions = principal_directions(feature_maps[0])
    projected = [(feature_map - centre) @ directions for feature_map in feature_maps]
    low, high = projected[0].flatten(0, 1).quantile(torch.tensor([0.02, 0.98]), dim=0)
    return [((p - low) / (high - low).clamp_min(1e-6)).clamp(0, 1).numpy() for p in projected]
