"""The report for whoever has a GPU, on the CPU and at tiny sizes: complete, and honest about what fails."""

import pytest
import torch

from dinov2_detrex.analysis import gpu_check
from dinov2_detrex.analysis.benchmark.deformable import Case
from dinov2_detrex.cli import run_command
from dinov2_detrex.training import parallel

CPU = torch.device("cpu")
CASES = [Case("tiny", ((5, 4), (2, 1)), num_images=2, num_heads=2, width=4, num_points=2)]
SMALL = ("model.backbone.net.depth=1", "model.num_queries=5", "model.transformer.encoder.num_layers=1")


def test_without_a_gpu_one_line_says_so(capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert run_command("benchmark gpu", []) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "sees no CUDA device" in error


def test_the_report_has_every_section_and_nothing_fails(monkeypatch):
    text = gpu_check.report(CPU, 1, [64], ["dino_dinov2_tiny_shapes"], 1, CASES, SMALL)
    headings = [line for line in text.splitlines() if line.startswith("## ")]
    assert headings[:2] == ["## Correct?", "## Deformable attention"] and len(headings) == 5
    assert "FAILED" not in text and "WRONG" not in text
    assert "grid_sample" in text and "needs CUDA" in text
    sharded = "2 processes, ok" if parallel.has_fsdp2() else "not tried: train.fsdp needs torch 2.8"
    assert "DDP: 2 processes, ok" in text and f"FSDP2: {sharded}" in text


def test_a_section_that_fails_says_what_happened_and_where():
    def section():
        raise RuntimeError("no kernel")

    assert gpu_check.attempt(section).startswith("FAILED: RuntimeError: no kernel")
    assert "in section" in gpu_check.attempt(section)


def test_a_wrong_operator_is_called_wrong(monkeypatch):
    right = gpu_check.multi_scale_deformable_attention
    monkeypatch.setattr(gpu_check, "multi_scale_deformable_attention", lambda *inputs: 1.2 * right(*inputs))
    assert {row[""] for row in gpu_check.correctness(CPU, CASES)} == {"WRONG"}


@pytest.mark.parametrize("name", sorted(gpu_check.MODELS.values()))
def test_the_recipes_that_are_measured_are_there(name):
    from dinov2_detrex.config.loading import find_config

    assert find_config(name).is_file()


def test_least_traffic_is_every_input_once_and_the_output():
    value, locations, weights = torch.zeros(1, 6, 2, 4), torch.zeros(1, 3, 2, 1, 5, 2), torch.zeros(1, 3, 2, 1, 5)
    assert gpu_check.least_bytes((value, locations, weights)) == 4 * (48 + 60 + 30 + 24)
