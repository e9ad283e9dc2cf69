"""Verification holds every picture of a batch, and one in which nothing is found, to the detector's own answer."""

import json

import pytest
import torch
from small_detectors import small_detector
from tiny_dino import image, record

from dinov2_detrex.export.graph import DetectionGraph, exportable
from dinov2_detrex.export.matching import compare
from dinov2_detrex.export.onnx_file import export_program, exports_here, set_metadata, write_onnx
from dinov2_detrex.export.openvino_file import write_openvino
from dinov2_detrex.export.shapes import GraphShapes
from dinov2_detrex.export.verifying import TOLERANCES, answer, verify
from dinov2_detrex.inference.exported import FORMAT, ExportedDetector, load_runtime

pytestmark = pytest.mark.skipif(not exports_here(), reason="torch is too old to export")
RUNTIMES = {".onnx": "onnxruntime", ".xml": "openvino"}
FLAT = torch.full((3, 100, 150), 128, dtype=torch.uint8)


def write_file(model, folder):
    """(path, metadata) of an ONNX file of any size and batch."""
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name, reason="needs the extra `export`")
    shapes, path = GraphShapes.of(model, None, None, largest=512), folder / "model.onnx"
    write_onnx(export_program(DetectionGraph(exportable(model, None)), shapes), shapes, path)
    graph, classes = shapes.describe("fp32"), [{"id": i, "name": str(i)} for i in range(5)]
    text = json.dumps({"format": FORMAT, "graph": graph, "input_format": "RGB", "classes": classes})
    set_metadata(path, text)
    return path, text


@pytest.fixture(scope="module")
def detector():
    return small_detector("hub")


@pytest.fixture(scope="module")
def blind():
    """A detector whose boxes have no extent, which leaves no detection."""
    model = small_detector("hub")
    for head in model.bbox_embed:
        with torch.no_grad():
            head.layers[-1].bias[2:] = -200.0
    return model


@pytest.fixture(scope="module")
def written(detector, blind, tmp_path_factory):
    """(detector's name, suffix) -> a file in a runtime that is installed."""
    made = {}

    def write(name, suffix):
        package = RUNTIMES[suffix]
        pytest.importorskip(package, reason="needs the extra `export`")
        if name not in made:
            made[name] = write_file({"detector": detector, "blind": blind}[name], tmp_path_factory.mktemp(name))
        path, text = made[name]
        if not path.with_suffix(suffix).exists():
            write_openvino(path, path.with_suffix(suffix), text)
        return path.with_suffix(suffix), json.loads(text)["graph"]

    return write


def as_answers(records):
    found = [one["instances"] for one in records]
    return [answer(*(v.numpy() for v in (one.pred_boxes.tensor, one.scores, one.pred_classes))) for one in found]


@pytest.mark.slow
@pytest.mark.parametrize("suffix", RUNTIMES)
def test_three_pictures_of_their_own_sizes_at_once_get_their_own_boxes(detector, written, suffix):
    path, _ = written("detector", suffix)
    batch = [record(image(*size_hw, seed)) for seed, size_hw in enumerate(((128, 150), (60, 190), (33, 71)))]
    with torch.no_grad():
        found, expected = (as_answers(m(batch)) for m in (ExportedDetector(load_runtime(path), path).eval(), detector))
    comparison = compare(found, expected, TOLERANCES["fp32"])
    assert comparison.num_expected == sum(len(one.scores) for one in found) > 0
    assert comparison.num_unmatched == 0


@pytest.mark.slow
@pytest.mark.parametrize("suffix", RUNTIMES)
def test_a_picture_without_objects_is_verified_by_its_improbable_boxes(detector, written, suffix):
    path, graph = written("detector", suffix)
    comparison = verify(path, graph, detector, [FLAT, image(70, 90)], TOLERANCES["fp32"]).comparison
    assert comparison.num_expected > 0 and comparison.num_unmatched == 0


@pytest.mark.slow
@pytest.mark.parametrize("suffix", RUNTIMES)
def test_where_the_detector_finds_nothing_the_file_must_find_nothing(detector, blind, written, suffix):
    path, graph = written("blind", suffix)
    pictures = [FLAT, image(128, 190)]
    verdict = verify(path, graph, blind, pictures, TOLERANCES["fp32"])
    assert (verdict.comparison.num_expected, verdict.comparison.num_unmatched) == (0, 0)
    seeing, _ = written("detector", suffix)
    assert verify(seeing, graph, blind, pictures, TOLERANCES["fp32"]).comparison.num_unmatched > 0
    (found,) = as_answers(ExportedDetector(load_runtime(path), path)([record(FLAT)]))
    assert found.boxes.shape == (0, 4)


class Mixing(DetectionGraph):
    """Answers to the first image for every image of the batch."""

    def forward(self, images, sizes):
        return super().forward(images[:1].expand(images.shape), sizes)


@pytest.mark.slow
def test_a_file_that_mixes_the_pictures_of_a_batch_is_found_out(detector, tmp_path):
    shapes = GraphShapes.of(detector, (128, 128), None)
    graph, path = shapes.describe("fp32", guarded=True), tmp_path / "model.pt2"
    for module, unmatched in ((DetectionGraph, False), (Mixing, True)):
        torch.export.save(export_program(module(exportable(detector, (128, 128))), shapes), path)
        comparison = verify(path, graph, detector, [image(128, 128)], TOLERANCES["fp32"]).comparison
        assert (comparison.num_unmatched > 0) is unmatched
