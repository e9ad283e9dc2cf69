"""A detector is measured against the machine: rates are arithmetic over time, runs are compared row by row."""

import json

import pytest
import torch

from dinov2_detrex.analysis.benchmark import detector, results
from dinov2_detrex.analysis.benchmark.limits import Limits, measure_limits, product_rate
from dinov2_detrex.analysis.cost import count_flops
from dinov2_detrex.cli import run_command
from dinov2_detrex.runtime.allocations import peak_bytes

CPU = torch.device("cpu")
TINY = "dino_dinov2_tiny_shapes"
SMALL = ("model.backbone.net.depth=1", "model.num_queries=5", "model.transformer.encoder.num_layers=1")
CASE = detector.Case((64, 96), 2, "float32")


@pytest.fixture(scope="module")
def rows():
    """A config against itself, with a limit of 100 GFLOP/s."""
    detectors = [detector.Detector(TINY, SMALL, CPU) for _ in range(2)]
    return detectors, detector.measure_case(detectors, CASE, Limits({"float32": 1e11}, 1e10), repeats=1)


def test_rates_are_the_models_arithmetic_over_the_time(rows):
    (own, _), measured = rows
    forward = count_flops(own.model, own.inputs(CASE)).total()
    assert [row["work"] for row in measured] == ["inference", "training step"] * 2
    inference, step = measured[:2]
    assert inference["GFLOP/s"] * inference["s"] == pytest.approx(forward / 1e9)
    assert step["GFLOP/s"] * step["s"] == pytest.approx(3 * forward / 1e9)  # nothing of it is frozen
    for row in measured:
        assert row["images/s"] == pytest.approx(2 / row["s"])
        assert row["limit : time"] == pytest.approx(row["GFLOP/s"] / 100)
        assert row["peak, MiB"] > 1
    assert {"encoder", "decoder", "backward"} <= set(step["parts"]) and "backward" not in inference["parts"]


def test_a_frozen_backbone_has_no_arithmetic_in_the_backward():
    own = detector.Detector(TINY, [*SMALL, "model.backbone.net.freeze=true"], CPU)
    by_part, total = count_flops(own.model, own.inputs(CASE)), own.flops(CASE)
    assert total["training step"] == 3 * total["inference"] - 2 * by_part["backbone net"]


def test_peak_memory_of_a_cpu_is_what_tensors_take_at_once():
    kept = []

    def run():
        torch.zeros(2**20)  # is gone before the others come
        kept.append(torch.zeros(2**19) + 1)

    assert peak_bytes(run, CPU) == pytest.approx(4 * 2**20, rel=0.01)
    kept.clear()


def test_limits_are_measured_in_every_dtype_that_is_asked_for():
    limits = measure_limits(CPU, [torch.float32], repeats=1)
    assert limits.flops["float32"] > 1e8 and limits.bytes > 1e8
    assert product_rate(CPU, torch.float32, 1) > 1e8


def test_the_command_writes_a_run_that_a_later_one_is_compared_with(tmp_path, capsys):
    file, figure = tmp_path / "run.json", tmp_path / "run.png"
    words = ["detector", TINY, *SMALL, "--size", "64", "64x96", "--repeats", "1", "--device", "cpu"]
    pytest.importorskip("matplotlib")
    assert run_command("benchmark", [*words, "--json", str(file), "--plot", str(figure)]) == 0
    run = json.loads(file.read_text())
    assert [(row["size"], row["work"]) for row in run["rows"]][::2] == [
        ("64 x 64", "inference"),
        ("64 x 96", "inference"),
    ]
    assert figure.read_bytes().startswith(b"\x89PNG")
    capsys.readouterr()
    earlier = {"rows": [row | {"s": row["s"] * 4} for row in run["rows"]]}
    shown = detector.times_table(run, earlier)
    assert "s : earlier" in shown.splitlines()[0] and shown.splitlines()[2].split("|")[-3].strip() == "0.25"


def test_what_is_no_run_is_refused(tmp_path, capsys):
    (tmp_path / "x.json").write_text("[1]")
    assert run_command("benchmark", ["detector", TINY, "--compare", str(tmp_path / "x.json")]) == 2
    assert "no run written by --json" in capsys.readouterr().err


def test_parts_of_two_configs_stand_beside_each_other():
    common = {"work": "inference", "batch": 1, "size": "8 x 8", "dtype": "float32"}
    rows = [{**common, "config": name, "parts": {"encoder": 1.0, name: 3.0}} for name in ("ours", "theirs")]
    table = detector.parts_table({"rows": rows})
    assert "ours, inference" in table and "theirs, inference" in table


@pytest.mark.parametrize("text", ["0", "12x", "x", "a", "1x0"])
def test_a_size_that_is_none_is_refused(text, capsys):
    assert run_command("benchmark", ["detector", TINY, "--size", text]) == 2
    assert "HEIGHTxWIDTH" in capsys.readouterr().err


# ---- benchmarks/RESULTS.md

DOCUMENT = """# Measurements

    python tools/benchmark.py one|two

## One

    python tools/benchmark.py one --repeats 3

Words before.

| a | b |
| --- | --- |
| 1 | 2 |

Words behind.

## Two

    python tools/benchmark.py two

| c |
| --- |
| 3 |
"""


def test_tables_are_replaced_and_words_stay():
    asked, said = [], []

    def run(words):
        asked.append(words)
        return "torch: x\n\n| a | b |\n|---|---|\n| 5 | 6 |\n" if words[0] == "one" else None

    after = results.renewed(DOCUMENT, run, say=said.append)
    assert asked == [["one", "--repeats", "3"], ["two"]]
    assert after == DOCUMENT.replace("| a | b |\n| --- | --- |\n| 1 | 2 |\n", "| a | b |\n|---|---|\n| 5 | 6 |\n")
    assert said == ["One: measured", "Two: left as it was, its command failed"]


def test_another_number_of_tables_leaves_a_section_as_it_is():
    assert results.renewed(DOCUMENT, lambda words: "| x |\n|---|\n\n| y |\n|---|\n", say=lambda line: None) == DOCUMENT


def test_only_the_sections_that_are_named_are_measured():
    asked = []
    results.renewed(DOCUMENT, asked.append, only=["two"], say=lambda line: None)
    assert asked == [["two"]]


def test_every_section_of_the_results_has_a_command_that_there_is():
    from pathlib import Path

    from dinov2_detrex.cli import subcommands
    from dinov2_detrex.commands import benchmark

    text = (Path(__file__).resolve().parents[3] / "benchmarks" / "RESULTS.md").read_text(encoding="utf-8")
    sections = results.sections_of(text)
    assert "".join(section.text for section in sections) == text
    assert {section.words[0] for section in sections if section.words} <= set(subcommands(benchmark))
