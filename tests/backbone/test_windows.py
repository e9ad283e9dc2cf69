"""Windowed attention against plain masked attention and global attention; its cost."""

import math

import pytest
import torch
from tiny_vits import DINOV3, PLAIN, REGISTERS, random_images, relative_error, tiny_vit

from dinov2_detrex.analysis.benchmark.windows import attention_flops
from dinov2_detrex.backbone.windows import Tiling, default_window_blocks

NAMES = [PLAIN, REGISTERS, DINOV3]
GRIDS = [(6, 10), (8, 8), (5, 7), (1, 9)]


def images_for(backbone, grid_hw, batch: int = 2) -> torch.Tensor:
    return random_images(batch, 3, *(n * backbone.size_divisibility for n in grid_hw))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("grid_hw", GRIDS)
def test_one_window_that_covers_the_image_is_global_attention(name, grid_hw):
    everywhere = {"window_size": 10, "window_block_indexes": [0, 1, 2]}
    windowed, plain = tiny_vit(name, return_prefix_tokens=True, **everywhere), tiny_vit(name, return_prefix_tokens=True)
    with torch.no_grad():
        actual, expected = (model(images_for(plain, grid_hw)) for model in (windowed, plain))
    for key, value in expected.items():
        assert relative_error(actual[key], value) < 1e-5, key


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("grid_hw", GRIDS)
@pytest.mark.parametrize("window_size", [1, 3, 4])
def test_patches_attend_to_their_window_and_the_prefix_tokens_alone(name, grid_hw, window_size):
    """Reference: timm's own block with a mask over all tokens, no cutting and no padding."""
    windowed = tiny_vit(name, depth=1, window_size=window_size, window_block_indexes=[0])
    plain = tiny_vit(name, depth=1)
    images = images_for(plain, grid_hw)
    mask = window_mask(grid_hw, window_size, plain.vit.num_prefix_tokens)
    plain.vit.blocks[0].attn.register_forward_pre_hook(
        lambda module, args, kwargs: (args, {**kwargs, "attn_mask": mask}), with_kwargs=True
    )
    with torch.no_grad():
        assert relative_error(windowed(images)["p-1"], plain(images)["p-1"]) < 1e-5


def window_mask(grid_hw: tuple[int, int], window_size: int, num_prefix: int) -> torch.Tensor:
    """(N, N) bool, True where row may attend to column."""
    rows, columns = torch.meshgrid(*(torch.arange(n) // window_size for n in grid_hw), indexing="ij")
    window = torch.cat([torch.full((num_prefix,), -1), (rows * 1000 + columns).flatten()])
    return (window[:, None] == window[None]) | (window[None] == -1) | (window[:, None] == -1)


@pytest.mark.parametrize("name", NAMES)
def test_prefix_tokens_are_the_mean_over_windows_weighted_by_cells(name):
    """Two windows, 4 and 2 columns wide, each run alone through timm's attention."""
    windowed = tiny_vit(name, depth=1, window_size=4, window_block_indexes=[0])
    attention, num_prefix = windowed.vit.blocks[0].attn, windowed.vit.num_prefix_tokens
    tokens = random_images(2, num_prefix + 4 * 6, 64)
    windowed._windows.set_grid((4, 6))
    twin = tiny_vit(name, depth=1).vit.blocks[0].attn
    prefix, grid = tokens[:, :num_prefix], tokens[:, num_prefix:].unflatten(1, (4, 6))
    with torch.no_grad():
        actual = attention(tokens)[:, :num_prefix]
        parts = [
            twin(torch.cat([prefix, part.flatten(1, 2)], 1))[:, :num_prefix]
            for part in (grid[:, :, :4], grid[:, :, 4:])
        ]
    assert relative_error(actual, parts[0] * 4 / 6 + parts[1] * 2 / 6) < 1e-5


@pytest.mark.parametrize("name", NAMES)
def test_window_padding_has_no_influence(name):
    """The values that pad the windows may be anything: a bias in the keys of padding would show."""
    backbone = tiny_vit(name, window_size=4)
    images = images_for(backbone, (5, 7))
    with torch.no_grad():
        expected = backbone(images)["p-1"]
        original = Tiling.cut
        try:
            Tiling.cut = lambda self, cells: fill_padding(self, original(self, cells))
            disturbed = backbone(images)["p-1"]
        finally:
            Tiling.cut = original
    assert relative_error(disturbed, expected) < 1e-5


def fill_padding(tiling: Tiling, windows: torch.Tensor) -> torch.Tensor:
    if windows.shape[-1] == 1:  # the map of valid cells itself
        return windows
    valid = tiling.valid_cells(windows.device)
    return torch.where(valid[None, :, :, None], windows, torch.full_like(windows, 7.0))


@pytest.mark.parametrize("window_size", [1, 3, 4, 16])
def test_cutting_and_joining_is_the_identity(window_size):
    tiling = Tiling.of((5, 7), window_size)
    cells = random_images(2, 35, 3)
    windows = tiling.cut(cells)
    assert windows.shape[1:3] == (math.prod(tiling.counts), math.prod(tiling.window_hw))
    assert torch.equal(tiling.join(windows), cells)
    assert int(tiling.valid_cells(cells.device).sum()) == 35


def test_a_side_shorter_than_the_window_is_not_padded():
    assert Tiling.of((3, 20), 8).padding == (0, 4)
    assert Tiling.of((3, 20), 8).window_hw == (3, 8)


@pytest.mark.parametrize(
    ("num_blocks", "global_blocks"), [(12, [2, 5, 8, 11]), (24, [5, 11, 17, 23]), (3, [2]), (1, [0])]
)
def test_default_leaves_evenly_spaced_blocks_global(num_blocks, global_blocks):
    assert [i for i in range(num_blocks) if i not in default_window_blocks(num_blocks)] == global_blocks


def test_attention_cost_grows_linearly_in_windowed_blocks_and_quadratically_in_global_ones():
    """At the grids of 518, 1036 and 1554 pixels, reduced by 37 / 8."""
    sides, local, everywhere = (8, 16, 24), [], []
    for side in sides:
        windowed, plain = tiny_vit(window_size=8, window_block_indexes=[0, 1, 2]), tiny_vit()
        images = images_for(plain, (side, side), batch=1)
        local.append(attention_flops(windowed, images))
        everywhere.append(attention_flops(plain, images))
    assert [cost / local[0] for cost in local] == [1, 4, 9]
    assert everywhere[2] * (8 * 8 + 1) ** 2 == everywhere[0] * (24 * 24 + 1) ** 2


@pytest.mark.parametrize("name", NAMES)
def test_windowed_backbone_trains(name):
    backbone = tiny_vit(name, window_size=3).train()
    backbone(images_for(backbone, (5, 7)))["p-1"].square().mean().backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in backbone.parameters())


def test_windowed_attention_runs_in_half_precision():
    backbone = tiny_vit(window_size=3)
    images = images_for(backbone, (5, 7))
    with torch.no_grad():
        expected = backbone(images)["p-1"]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            actual = backbone(images)["p-1"]
    assert relative_error(actual.float(), expected) < 0.05
