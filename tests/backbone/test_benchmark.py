"""The measurements measure: arithmetic as worked out by hand, memory that is there."""

import pytest
import torch

from dinov2_detrex.backbone import benchmark


def test_attention_arithmetic_is_that_of_the_windows():
    """test_vit: 2 heads of 32 in width 64, one class token; two products of 2 * N * N * 64 operations each."""
    (row,) = benchmark.attention_rows([100], depth=1, window_size=2, repeats=1, model_name="test_vit")
    assert (row["image"], row["grid"]) == (100, "7x7")
    assert row["global: attention GFLOP a block"] == pytest.approx(4 * (49 + 1) ** 2 * 64 / 1e9)
    windows, tokens = 4 * 4, 2 * 2 + 1
    assert row["windowed: attention GFLOP a block"] == pytest.approx(windows * 4 * tokens**2 * 64 / 1e9)
    assert row["global: CPU ms a block"] > 0


class Hoarder(torch.nn.Module):
    """A model whose step holds about so many MiB."""

    def __init__(self, mib: int):
        super().__init__()
        self.weight, self.mib = torch.nn.Parameter(torch.ones(1)), mib

    def forward(self, inputs):
        held = torch.zeros(self.mib * 2**18) * self.weight
        return {"loss": held.square().sum()}


def build_hoarder(settings: dict):
    return Hoarder(settings["mib"]), []


def test_peak_memory_grows_with_what_a_step_holds():
    small, large = benchmark.memory_rows(build_hoarder, {"small": {"mib": 20}, "large": {"mib": 220}})
    assert (small["backbone"], large["backbone"]) == ("small", "large")
    assert large["peak above the model, MiB"] - small["peak above the model, MiB"] > 300
