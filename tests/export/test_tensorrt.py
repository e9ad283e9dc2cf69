"""What TensorRT would not read in an ONNX file is named, node by node."""

from pathlib import Path

import pytest

from dinov2_detrex.export.tensorrt import objections, trtexec_command

onnx = pytest.importorskip("onnx", reason="needs the extra `export`")
node, value = onnx.helper.make_node, onnx.helper.make_tensor_value_info
FLOAT, UINT8, INT64 = onnx.TensorProto.FLOAT, onnx.TensorProto.UINT8, onnx.TensorProto.INT64


@pytest.fixture
def objected(tmp_path):
    """A file of these nodes, from `images` (uint8) and `counts` (int64) to `y` -> what is said against it."""

    def write(*nodes, opset=18, **constants):
        inputs = [value("images", UINT8, [4, 4]), value("counts", INT64, [1])]
        tensors = [onnx.helper.make_tensor(name, INT64, [1], [number]) for name, number in constants.items()]
        graph = onnx.helper.make_graph(list(nodes), "graph", inputs, [value("y", FLOAT, None)], tensors)
        model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)], ir_version=9)
        onnx.save(model, tmp_path / "model.onnx")
        return objections(tmp_path / "model.onnx")

    return write


CAST = node("Cast", ["images"], ["x"], to=FLOAT)


def test_what_its_table_has_is_not_objected_to(objected):
    assert objected(CAST, node("ReduceSum", ["x", "axis"], ["y"]), axis=1) == []


def test_an_operator_that_is_not_in_the_table_and_one_that_is_converted_wrongly_are_named(objected):
    found = objected(CAST, node("Det", ["x"], ["z"]), node("GridSample", ["x", "x"], ["y"]))
    assert found[0] == "Det is not among its operators" and found[1].startswith("GridSample: ")


def test_uint8_goes_into_a_cast_alone(objected):
    found = objected(node("Transpose", ["images"], ["z"], name="turn"), node("Cast", ["z"], ["y"], to=FLOAT))
    assert found == ["turn: Transpose reads uint8, which Cast alone may"]


def test_axes_are_constants(objected):
    found = objected(CAST, node("Unsqueeze", ["x", "counts"], ["y"], name="grow"))
    assert found == ["grow: the axes of Unsqueeze are no constant"]


def test_topk_takes_a_constant_that_is_not_too_large(objected):
    assert objected(CAST, node("TopK", ["x", "k"], ["y", "i"], name="top"), k=3) == []
    assert objected(CAST, node("TopK", ["x", "k"], ["y", "i"], name="top"), k=3840) == [
        "top: K = 3840 is not below 3840"
    ]
    assert objected(CAST, node("TopK", ["x", "counts"], ["y", "i"], name="top")) == ["top: its K is no constant"]


def test_an_opset_with_layer_norms_in_pieces_is_objected_to(objected):
    assert objected(node("Cast", ["images"], ["y"], to=FLOAT), opset=16) == ["opset 16 is not in 17..20"]


def test_the_command_has_the_range_of_sizes_and_the_precise_layers():
    graph = {"raw": False, "batch": None, "height": None, "width": None, "multiple": 64, "smallest": 128}
    command = trtexec_command(Path("some/model.onnx"), graph | {"largest": 1024}, ["norm", "softmax"])
    assert "--onnx=model.onnx" in command and "--layerPrecisions=norm:fp32,softmax:fp32" in command
    assert "--precisionConstraints=obey" in command
    assert "--minShapes=images:1x128x128x3,sizes:1x2" in command
    assert "--maxShapes=images:8x1024x1024x3,sizes:8x2" in command
