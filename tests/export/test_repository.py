"""A server's model repository is laid out and described as its documentation wants it, and its client gets boxes."""

import json
import re
import runpy
from pathlib import Path

import pytest
from kserve import serving
from made_package import make_package
from PIL import Image

from dinov2_detrex.cli import run_command
from dinov2_detrex.export.onnx_file import exports_here
from dinov2_detrex.export.repository import client_text, edges_of, ports, triton_config
from dinov2_detrex.inference import Predictor
from dinov2_detrex.inference.exported import load_runtime

onnx = pytest.importorskip("onnx", reason="needs the extra `export`")
ort = pytest.importorskip("onnxruntime", reason="needs the extra `export`")
TENSOR = re.compile(r'^(input|output) \{ name: "(\w+)" data_type: TYPE_(\w+) dims: \[ (.+) \] \}$', re.MULTILINE)
MAPPER = "augmentation:\n- {_target_: detectron2.data.transforms.ResizeShortestEdge, short_edge_length: %s}\n"


def described(config: str):
    """(place, name, type, dimensions) of the tensors in a config.pbtxt."""
    return [(*found[:3], [int(n) for n in found[3].split(", ")]) for found in TENSOR.findall(config)]


@pytest.fixture
def file(tmp_path):
    """An ONNX file with an input of any batch and height."""
    value = onnx.helper.make_tensor_value_info
    pixels = value("images", onnx.TensorProto.UINT8, ["batch", "height", 64, 3])
    sums = value("sums", onnx.TensorProto.FLOAT, ["batch", 64])
    nodes = [
        onnx.helper.make_node("Cast", ["images"], ["numbers"], to=onnx.TensorProto.FLOAT),
        onnx.helper.make_node("ReduceSum", ["numbers", "axes"], ["sums"], keepdims=0),
    ]
    axes = onnx.helper.make_tensor("axes", onnx.TensorProto.INT64, [2], [1, 3])
    graph = onnx.helper.make_graph(nodes, "sums", [pixels], [sums], [axes])
    opset = [onnx.helper.make_opsetid("", 18)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=9), tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


def test_tritons_dimensions_are_those_of_the_file_without_the_batch(file):
    config = triton_config("sums", ports(file), batched=True)
    assert described(config) == [("input", "images", "UINT8", [-1, 64, 3]), ("output", "sums", "FP32", [64])]
    assert "max_batch_size: 8" in config and "dynamic_batching { }" in config


def test_without_a_batch_they_are_whole(file):
    config = triton_config('a "name"', ports(file), batched=False)
    assert [dims for *_, dims in described(config)] == [[-1, -1, 64, 3], [-1, 64]]
    assert "max_batch_size: 0" in config and "dynamic_batching" not in config
    assert config.startswith(r'name: "a \"name\""')


@pytest.mark.parametrize(
    "given, expected",
    [("800, max_size: 1333", (800, 1333)), ("[64, 64], max_size: 128", (64, 128)), ("[480, 800]", None)],
)
def test_the_client_resizes_as_the_evaluation_does_where_that_is_one_size(given, expected):
    assert edges_of(MAPPER % given) == expected


def test_a_mapper_that_resizes_nothing_has_no_edges():
    assert edges_of("augmentation: []\n") is None
    assert edges_of("augmentation:\n- {_target_: detectron2.data.transforms.RandomFlip}\n") is None


def test_the_client_says_what_the_server_says_against_it(tmp_path):
    graph = {"height": 64, "width": 64, "multiple": 64, "smallest": 64, "largest": 64}
    metadata = {"graph": graph, "classes": [{"name": "newt"}], "mapper": "{}", "thresholds": {"default": 0.3}}
    (tmp_path / "client.py").write_text(client_text("newts", metadata))
    client = runpy.run_path(str(tmp_path / "client.py"))
    with serving({}) as address, pytest.raises(RuntimeError, match="answers 404: .*unknown model newts"):
        client["detect"](Image.new("RGB", (60, 40)), address)


@pytest.mark.slow
@pytest.mark.skipif(not exports_here(), reason="torch is too old to export")
@pytest.mark.parametrize("server", ["triton", "ovms"])
def test_the_repositorys_client_gets_the_predictors_boxes(server, tmp_path):
    if server == "ovms":
        pytest.importorskip("openvino", reason="needs the extra `export`")
    package, picture = make_package(tmp_path)
    out = tmp_path / "served newts"
    words = [str(package), "--to", server, "--out", str(out), "--batch", "dynamic", "--largest", "512"]
    assert run_command("export", words) == 0
    runtime = load_runtime(triton_model(out) if server == "triton" else ovms_model(out))
    client = runpy.run_path(str(out / "client.py"))
    with serving({"served%20newts": runtime.run}) as address:
        boxes, scores, labels = client["detect"](Image.open(picture), address)
    expected = Predictor.from_pretrained(package)(picture, score_threshold=0.0)
    found = sorted((s, client["CLASSES"][i], b.tolist()) for s, i, b in zip(scores, labels, boxes) if s > 0)[::-1]
    assert len(found) == len(expected) > 0
    for (score, name, box), one in zip(found, expected):
        x, y, width, height = one["bbox"]
        assert score == pytest.approx(one["score"], abs=1e-3) and name == one["category_name"]
        assert box == pytest.approx([x, y, x + width, y + height], abs=0.05)


def triton_model(repository: Path) -> Path:
    """The file that Triton would load, after its checks of config.pbtxt against it."""
    folder = repository / repository.name
    config = (folder / "config.pbtxt").read_text()
    session = ort.InferenceSession(folder / "1" / "model.onnx")
    types = {"UINT8": "tensor(uint8)", "INT64": "tensor(int64)", "FP32": "tensor(float)"}
    there = {value.name: value for value in (*session.get_inputs(), *session.get_outputs())}
    for _, name, kind, dims in described(config):
        value = there.pop(name)
        assert value.type == types[kind]
        assert [n if isinstance(n, int) else -1 for n in value.shape] == [-1, *dims]
    assert not there
    return folder / "1" / "model.onnx"


def ovms_model(repository: Path) -> Path:
    """The file that OpenVINO Model Server would load with the repository mounted as /models."""
    (entry,) = json.loads((repository / "config.json").read_text())["model_config_list"]
    assert entry["config"]["name"] == repository.name
    folder = repository / Path(entry["config"]["base_path"]).relative_to("/models")
    (version,) = folder.iterdir()
    assert int(version.name) >= 1 and sorted(file.suffix for file in version.iterdir()) == [".bin", ".xml"]
    return next(version.glob("*.xml"))
