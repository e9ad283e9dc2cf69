"""The comparison of patch kernels says what the kernels are, and its tool draws it."""

import subprocess

import numpy as np
import pytest
import torch
from conftest import ROOT
from PIL import Image
from tiny_vits import PLAIN, TINY, randomise, relative_error

from dinov2_detrex.analysis.patch_figure import kernel_sheet
from dinov2_detrex.analysis.patch_resampling import build_variants, compare, features, grid_of, kernel_statistics
from dinov2_detrex.visualization.feature_colours import as_colours


@pytest.fixture
def picture() -> Image.Image:
    """A gradient with two discs, 90 wide and 60 high."""
    y, x = np.mgrid[:60, :90]
    pixels = np.stack([2 * x, 4 * y, x + y], -1)
    pixels[(x - 30) ** 2 + (y - 25) ** 2 < 200] = (250, 30, 10)
    pixels[(x - 65) ** 2 + (y - 35) ** 2 < 250] = (20, 60, 240)
    return Image.fromarray(pixels.astype("uint8"))


@pytest.fixture
def variants():
    torch.manual_seed(0)
    return build_variants(PLAIN, 16, **{**TINY, "img_size": 112})


def test_variants_share_all_weights_but_the_kernel(variants):
    native, *others = (variant.backbone.vit.state_dict() for variant in variants)
    assert [variant.name for variant in variants] == ["patch 14, native", "patch 16, pi", "patch 16, bicubic"]
    for other in others:
        assert {key for key in native if not torch.equal(native[key], other[key])} == {"patch_embed.proj.weight"}


def test_statistics_are_those_of_the_kernel():
    kernel = randomise(torch.nn.Conv2d(3, 8, 14)).weight.detach()
    values = kernel.numpy().astype("float64")
    expected = {
        "mean": values.mean(),
        "std": values.std(ddof=1),
        "min": values.min(),
        "max": values.max(),
        "filter norm": np.sqrt((values**2).sum((1, 2, 3))).mean(),
        "|response to 1|": np.abs(values.sum((1, 2, 3))).mean(),
    }
    assert kernel_statistics(kernel) == pytest.approx(expected, rel=1e-4)


def test_features_of_every_variant_lie_on_the_same_grid(variants, picture):
    assert [tuple(features(variant, picture, (4, 6)).shape) for variant in variants] == [(4, 6, 64)] * 3


def test_features_of_a_plain_wall_do_not_change_with_the_exact_resize(variants):
    wall = Image.new("RGB", (90, 60), (200, 90, 30))
    native, pi, bicubic = (features(variant, wall, (4, 6)) for variant in variants)
    assert relative_error(pi, native) < 1e-4
    assert relative_error(bicubic, native) > 1e-2


@pytest.mark.parametrize(("size", "grid"), [((90, 60), (8, 12)), ((60, 90), (12, 8)), ((1000, 10), (1, 12))])
def test_grid_keeps_the_aspect_ratio(size, grid):
    assert grid_of(Image.new("RGB", size), 12) == grid


def test_colours_of_equal_maps_are_equal_and_fill_the_range():
    feature_map = torch.randn(6, 7, 16, generator=torch.Generator().manual_seed(0))
    first, second = as_colours([feature_map, feature_map.clone()])
    assert np.array_equal(first, second)
    assert first.shape == (6, 7, 3) and first.min() == 0 and first.max() == 1


def test_kernel_sheet_shows_zero_as_grey():
    sheet = kernel_sheet(torch.zeros(24, 3, 5, 5))
    assert sheet.shape == (4 * 7, 6 * 7, 3)
    assert set(np.unique(sheet)) == {0.5, 1.0}


def test_table_has_a_row_for_each_variant(picture):
    table = compare(PLAIN, [picture], cells=6, **{**TINY, "img_size": 112})
    assert "random weights" in table
    rows = {line[:17].strip(): line.split() for line in table.splitlines()[3:]}
    assert list(rows) == ["patch 14, native", "patch 16, pi", "patch 16, bicubic"]
    assert [float(value) for value in rows["patch 14, native"][-2:]] == [1.0, 1.0]


def test_tool_prints_the_table_and_draws_the_figure(picture, python, python_env, tmp_path):
    picture.save(tmp_path / "scene.png")
    figure_path = tmp_path / "out" / "figure.png"
    arguments = ["--model", "test_vit", "--patch-size", "12", "--cells", "6", "--output", str(figure_path)]
    tool = str(ROOT / "tools" / "compare_patch_interpolation.py")
    done = subprocess.run(
        [python, tool, str(tmp_path / "scene.png"), *arguments],
        capture_output=True,
        text=True,
        env=python_env,
        cwd=tmp_path,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "patch 12, bicubic" in done.stdout
    figure = np.asarray(Image.open(figure_path).convert("RGB"))
    assert min(figure.shape[:2]) > 400 and figure.std() > 20


def test_tool_names_a_missing_picture(python, python_env, tmp_path):
    tool = str(ROOT / "tools" / "compare_patch_interpolation.py")
    done = subprocess.run(
        [python, tool, "nowhere.png"], capture_output=True, text=True, env=python_env, cwd=tmp_path, timeout=300
    )
    assert done.returncode == 1
    assert "nowhere.png" in done.stderr and "Traceback" not in done.stderr
