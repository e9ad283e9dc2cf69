"""An ONNX file in onnxruntime gives the detector's boxes at every size that it says it takes."""

from pathlib import Path

import pytest
import torch
from golden_numbers import fill_from_names
from small_detectors import KINDS, small_detector
from tiny_dino import image
from tiny_vits import randomise

from dinov2_detrex.export.benchmark import detector
from dinov2_detrex.export.departing import first_departure
from dinov2_detrex.export.graph import DetectionGraph, RawGraph, exportable
from dinov2_detrex.export.onnx_file import export_program, exports_here, write_onnx
from dinov2_detrex.export.shapes import GraphShapes
from dinov2_detrex.export.tensorrt import objections
from dinov2_detrex.export.verifying import TOLERANCES, verify

onnx = pytest.importorskip("onnx", reason="needs the extra `export`")
pytest.importorskip("onnxscript", reason="needs the extra `export`")
pytest.importorskip("onnxruntime", reason="needs the extra `export`")
pytestmark = pytest.mark.skipif(not exports_here(), reason="torch is too old to export")

SIZES = ((128, 128), (192, 64), (70, 250), (30, 40))


def written(model, path: Path, size_hw, batch, raw=False):
    """(shapes, module) of a file that is written to `path`."""
    shapes = GraphShapes.of(model, size_hw, batch, raw, largest=512)
    module = (RawGraph if raw else DetectionGraph)(exportable(model, shapes.canvas_hw))
    write_onnx(export_program(module, shapes), shapes, path)
    return shapes, module


def unmatched(path, shapes, model, images):
    return verify(path, shapes.describe("fp32"), model, images, TOLERANCES["fp32"]).comparison.num_unmatched


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["hub", "DINOv3 windows", "registers"])
def test_a_file_of_any_size_and_batch_gives_the_detectors_boxes(kind, tmp_path):
    model, path = small_detector(kind), tmp_path / "model.onnx"
    shapes, _ = written(model, path, None, None)
    assert unmatched(path, shapes, model, [image(*size_hw) for size_hw in SIZES]) == 0
    kinds = {node.op_type for node in onnx.load(path).graph.node}
    assert "GridSample" not in kinds and "Resize" not in kinds
    assert objections(path) == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"hub", "DINOv3 windows", "registers"}))
def test_so_do_the_other_backbones(kind, tmp_path):
    test_a_file_of_any_size_and_batch_gives_the_detectors_boxes(kind, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["patch 14"])
def test_a_file_of_one_size_and_batch_gives_the_boxes_of_smaller_images(kind, tmp_path):
    model, path = small_detector(kind), tmp_path / "model.onnx"
    shapes, _ = written(model, path, (120, 200), 3)
    assert unmatched(path, shapes, model, [image(120, 200), image(60, 128), image(33, 71)]) == 0
    assert objections(path) == []


@pytest.mark.slow
def test_the_recipes_detector_of_real_width_is_exported_too(tmp_path):
    shallow = ["model.backbone.net.depth=2", "model.transformer.encoder.num_layers=2", "model.num_queries=100"]
    model, path = detector("dino_dinov2_b_12ep", shallow, ""), tmp_path / "model.onnx"
    randomise(model.backbone.net)
    for name, child in model.named_children():
        if name != "backbone":
            fill_from_names(child)
    shapes, _ = written(model, path, (140, 224), 1)
    assert unmatched(path, shapes, model, [image(140, 224), image(90, 70)]) == 0
    assert objections(path) == []


@pytest.mark.slow
def test_the_network_alone_is_compared_too_and_so_is_a_file_that_says_nothing(tmp_path):
    from dinov2_detrex.export.verifying import guessed_graph

    model, path = small_detector("hub"), tmp_path / "model.onnx"
    shapes, _ = written(model, path, (128, 192), 1, raw=True)
    graph = guessed_graph(path, model)
    assert (graph["raw"], graph["batch"], graph["height"], graph["width"]) == (True, 1, 128, 192)
    assert verify(path, graph, model, [image(128, 150)], TOLERANCES["fp32"]).comparison.num_unmatched == 0


@pytest.mark.slow
def test_the_first_layer_that_departs_is_named(tmp_path):
    model, path = small_detector("hub"), tmp_path / "model.onnx"
    shapes, module = written(model, path, (128, 128), 1)
    assert "none of the" in first_departure(path, module, shapes, [image(128, 128)])
    with torch.no_grad():
        module.model.transformer.encoder.layers[0].ffns[0].layers[1].weight.mul_(1.5)
    assert "model.transformer.encoder.layers.0.ffns.0.layers" in first_departure(
        path, module, shapes, [image(128, 128)]
    )
    assert unmatched(path, shapes, model, [image(128, 128)]) == 0  # the module was changed, not the file
