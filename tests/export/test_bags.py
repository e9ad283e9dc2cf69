"""In an OpenVINO file of one size products with gathered rows are summed in bags, to the same numbers; others stay."""

import numpy as np
import pytest
from small_detectors import small_detector
from tiny_dino import image

from dinov2_detrex.detector.deformable_attention import MultiScaleDeformableAttention
from dinov2_detrex.export.bags import attention_for, operations, sum_in_bags
from dinov2_detrex.export.benchmark import METADATA
from dinov2_detrex.export.graph import DetectionGraph, exportable
from dinov2_detrex.export.onnx_file import exports_here
from dinov2_detrex.export.options import ExportOptions
from dinov2_detrex.export.shapes import GraphShapes
from dinov2_detrex.export.verifying import TOLERANCES, verify
from dinov2_detrex.export.writing import write

ov = pytest.importorskip("openvino", reason="needs the extra `export`")

F32 = {"INFERENCE_PRECISION_HINT": "f32"}  # on some machines it computes in bfloat16 by itself


def product_of_rows(num_bags, rows, width=4):
    """weights (N, 1, 6), table (7, width), rows -> (N, 1, 4)."""
    ops = operations()
    weights = ops.parameter(ov.PartialShape([num_bags, 1, 6]), np.float32, name="weights")
    table = ops.parameter([7, width], np.float32, name="table")
    rows = ops.parameter(ov.PartialShape([-1]), np.int32, name="rows") if rows is None else ops.constant(rows)
    cells = ops.reshape(ops.gather(table, rows, np.int32(0)), np.array([-1, 6, 4]), special_zero=False)
    product = ops.matmul(weights, cells, False, False, name="sums")
    product.output(0).get_tensor().set_names({"sums"})
    inputs = [one for one in (weights, table, rows) if one.get_type_name() == "Parameter"]
    return ov.Model([product], inputs, "model")


def kinds_in(model):
    return [one.get_type_name() for one in model.get_ops()]


def test_bags_give_the_products_numbers():
    model = product_of_rows(5, rows=None)
    rng = np.random.default_rng(0)
    inputs = [rng.normal(size=(5, 1, 6)), rng.normal(size=(7, 4)), rng.integers(0, 7, 30)]
    inputs = [value.astype(kind) for value, kind in zip(inputs, (np.float32, np.float32, np.int32))]
    expected = ov.compile_model(model.clone(), "CPU", F32)(inputs)[0]
    assert sum_in_bags(model) == 1
    assert "EmbeddingBagPackedSum" in kinds_in(model) and not {"MatMul", "Gather"} & set(kinds_in(model))
    np.testing.assert_allclose(ov.compile_model(model, "CPU", F32)(inputs)["sums"], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "num_bags, rows, width",
    [(2, np.arange(12, dtype=np.int32), 4), (-1, None, 4), (5, None, 8)],
    ids=["rows that are known beforehand", "any number", "rows of two cells"],
)
def test_other_products_stay(num_bags, rows, width):
    model = product_of_rows(num_bags, rows, width)
    assert sum_in_bags(model) == 0
    ov.compile_model(model, "CPU", F32)


@pytest.mark.slow
@pytest.mark.skipif(not exports_here(), reason="torch is too old to export")
@pytest.mark.parametrize("batch", [1, 3])
def test_a_file_of_one_size_sums_all_its_deformable_attention_in_bags(batch, tmp_path):
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name, reason="needs the extra `export`")
    model, path = small_detector("patch 14"), tmp_path / "model.xml"
    shapes = GraphShapes.of(model, (120, 200), batch)
    module = DetectionGraph(exportable(model, shapes.canvas_hw, attention_for("openvino", shapes)))
    write(ExportOptions("openvino", (120, 200), batch), module, shapes, path, METADATA, [])
    layers = [one for one in model.modules() if isinstance(one, MultiScaleDeformableAttention)]
    assert kinds_in(ov.Core().read_model(path)).count("EmbeddingBagPackedSum") == len(layers) > 0
    images = [image(120, 200), image(60, 128), image(33, 71)]
    assert verify(path, shapes.describe("fp32"), model, images, TOLERANCES["fp32"]).comparison.num_unmatched == 0
