"""Positions computed by a graph of any size are those that torch's own interpolation gives."""

import pytest
import torch

from dinov2_detrex.backbone.position import resample_grid
from dinov2_detrex.export.positions import GridPositions, resampling_matrices


@pytest.mark.parametrize("mode", ["hub", "timm"])
@pytest.mark.parametrize("grid_hw", [(8, 7), (8, 5), (3, 21), (16, 16), (9, 7), (1, 2)])
def test_the_product_of_two_matrices_is_the_interpolation(mode, grid_hw):
    grid = torch.randn(1, 8, 7, 5, generator=torch.Generator().manual_seed(0))
    down, across = resampling_matrices(grid_hw, (8, 7), mode)
    found = torch.einsum("yh,bhwc,xw->byxc", down, grid, across)
    torch.testing.assert_close(found, resample_grid(grid, grid_hw, mode), rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("mode", ["hub", "timm"])
def test_at_the_stored_size_positions_stay_as_they_are(mode):
    for matrix in resampling_matrices((37, 37), (37, 37), mode):
        torch.testing.assert_close(matrix, torch.eye(37), rtol=0, atol=1e-6)


@pytest.mark.parametrize("mode", ["hub", "timm"])
def test_patches_of_any_size_get_their_positions(mode):
    grid = torch.randn(1, 4, 4, 3, generator=torch.Generator().manual_seed(0))
    patches = torch.ones(2, 6, 5, 3)
    expected = patches + resample_grid(grid, (6, 5), mode)
    torch.testing.assert_close(GridPositions(grid, mode)(patches), expected, rtol=1e-5, atol=2e-5)
