"""tools/benchmark.py prints what runs where, and then the table that was asked for."""

from importlib.metadata import version

import pytest
import torch

from dinov2_detrex.cli import run_command
from dinov2_detrex.commands.benchmark.step import RECIPE
from dinov2_detrex.export.benchmark import detector


@pytest.fixture
def measure(capsys):
    """The command in this process: arguments -> exit status, output, errors."""
    threads = torch.get_num_threads()

    def run(*arguments):
        status = run_command("benchmark", [*arguments, "--device", "cpu"])
        return (status, *capsys.readouterr())

    yield run
    torch.set_num_threads(threads)


def tables(output: str) -> list[dict[str, list[str]]]:
    """Markdown tables of the output: first cell of each row -> the other cells."""
    found = []
    for block in output.split("\n\n"):
        if block.startswith("|"):
            rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in block.strip().splitlines()]
            found.append({row[0]: row[1:] for row in rows[2:]})
    return found


def test_step_of_a_recipe_is_split_by_part(measure):
    small = ("model.backbone.net.depth=1", "model.num_queries=5", "model.transformer.encoder.num_layers=1")
    status, output, _ = measure("step", "--repeats", "1", "--size", "64", "96", "--batch", "2", "--boxes", "2", *small)
    assert status == 0
    assert f"torch: {version('torch')}" in output and "processor: " in output
    assert "2 images of 64 x 96 pixels with 2 boxes each" in output
    step, evaluation = tables(output)
    forward = ["backbone net", "pyramid", "neck", "encoder", "query selection", "decoder", "heads"]
    assert list(step) == [*forward, "losses", "rest", "backward", "clipping", "optimizer", "total"]
    assert list(evaluation) == [*forward, "rest", "total"]
    for table in (step, evaluation):
        assert all(float(ms) > 0 for ms, _ in table.values())
        assert sum(float(ms) for ms, _ in table.values()) == pytest.approx(2 * float(table["total"][0]), rel=0.02)


def test_windows_are_measured_at_the_sizes_asked_for(measure):
    status, output, _ = measure(
        "windows", "--model", "test_vit", "--depth", "1", "--sizes", "64", "80", "--repeats", "1"
    )
    assert status == 0 and list(tables(output)[0]) == ["64", "80"]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("step", "modle.x=1"), "modle"),
        (("step", "--config-file", "absent.py"), "absent.py"),
        (("losses", "--repeats", "0"), "--repeats"),
        (("windows", "--model", "vit_smal_patch14_dinov2"), "vit_small_patch14_dinov2"),
    ],
)
def test_mistake_is_answered_with_one_line(measure, arguments, message):
    status, output, errors = measure(*arguments)
    assert status != 0 and not output
    assert len(errors.splitlines()) == 1 and errors.startswith("error: ") and message in errors


@pytest.mark.parametrize("recipe", ["dino_dinov2_tiny_shapes", RECIPE])
def test_a_recipe_by_name_or_file_is_exported_with_random_weights(recipe):
    small = ["model.backbone.net.depth=1", "model.transformer.encoder.num_layers=1"]
    assert not detector(recipe, small, "").training


@pytest.mark.slow
def test_exported_files_stand_beside_pytorch(capsys):
    for package in ("onnx", "onnxruntime", "onnxscript", "openvino", "nncf"):
        pytest.importorskip(package, reason="needs the extras `export` and `int8`")
    small = ("model.backbone.net.depth=1", "model.num_queries=5", "model.transformer.encoder.num_layers=1")
    assert run_command("benchmark exported", ["--repeats", "1", "--size", "64", "96", *small]) == 0
    output = capsys.readouterr().out
    (table,) = tables(output)
    runtimes = ["ONNX Runtime fp32", "OpenVINO fp32", "OpenVINO bf16", "OpenVINO int8"]
    assert list(table) == ["PyTorch fp32", "PyTorch bf16", *runtimes]
    assert "picture: 64 x 96 pixels" in output and float(table["PyTorch fp32"][5]) == 0
    for name in ("ONNX Runtime fp32", "OpenVINO fp32"):
        *_, unmatched, shift, gap = map(float, table[name])
        assert unmatched == 0 and shift < 0.05 and gap < 1e-3
