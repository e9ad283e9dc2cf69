"""In float16 matrix products are computed in that type, and what was named stays in float32."""

import numpy as np
import pytest

from dinov2_detrex.export.precision import precise_nodes, precise_values, to_half

onnx = pytest.importorskip("onnx", reason="needs the extra `export`")
ort = pytest.importorskip("onnxruntime", reason="needs the extra `export`")
FLOAT = onnx.TensorProto.FLOAT


@pytest.fixture
def file(tmp_path):
    """x (B, 16) -> "body" -> Softmax -> "class_embed.0" -> Sigmoid -> y (B, 4): products by their modules."""
    rng = np.random.default_rng(0)
    weights = {"w0": rng.normal(size=(16, 8)), "w1": rng.normal(size=(8, 4))}
    tensors = [onnx.numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()]
    nodes = [
        onnx.helper.make_node("MatMul", ["x", "w0"], ["a"], name="first"),
        onnx.helper.make_node("Softmax", ["a"], ["b"], name="softmax"),
        onnx.helper.make_node("MatMul", ["b", "w1"], ["c"], name="last"),
        onnx.helper.make_node("Sigmoid", ["c"], ["y"], name="scores"),
    ]
    for node, scope in zip(nodes, ("model.body", "model.body", "model.class_embed.0")):
        node.metadata_props.add(key="pkg.torch.onnx.name_scopes", value=f"['', '{scope}', 'matmul']")
    value = onnx.helper.make_tensor_value_info
    ends = [value("x", FLOAT, ["batch", 16])], [value("y", FLOAT, ["batch", 4])]
    graph = onnx.helper.make_graph(nodes, "graph", *ends, tensors)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, tmp_path / "float.onnx")
    return tmp_path / "float.onnx"


def run(path, x):
    return ort.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]


def pictures(count, seed):
    return np.random.default_rng(seed).normal(size=(count, 16)).astype(np.float32)


def test_norms_and_heads_stay_precise(file):
    assert precise_nodes(onnx.load(file), ["class_embed"]) == ["softmax", "last"]
    assert precise_values(onnx.load(file), ["class_embed"]) == {"b", "c"}


def test_float16_holds_weights_in_half_and_gives_nearly_the_same(file):
    to_half(file, file.with_name("half.onnx"), ["softmax", "last"])
    half = onnx.load(file.with_name("half.onnx"))
    kinds = {tensor.name: onnx.TensorProto.DataType.Name(tensor.data_type) for tensor in half.graph.initializer}
    assert kinds == {"w0_half": "FLOAT16", "w1": "FLOAT"}
    x = pictures(5, 1)
    np.testing.assert_allclose(run(file.with_name("half.onnx"), x), run(file, x), atol=5e-3)
