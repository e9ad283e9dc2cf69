"""An exported file stands in the detector's place: in a predictor, an evaluation, and the command that makes it."""

import json
import math
import shutil

import pytest
import torch
from coco_folder import CocoFolder
from made_package import make_package
from PIL import Image

from dinov2_detrex.cli import run_command
from dinov2_detrex.export.formats import MISSING
from dinov2_detrex.export.onnx_file import exports_here
from dinov2_detrex.export.verifying import size_mb
from dinov2_detrex.inference import Predictor
from dinov2_detrex.inference.exported import open_exported
from dinov2_detrex.runtime.errors import UserError

onnx = pytest.importorskip("onnx", reason="needs the extra `export`")
pytest.importorskip("onnxscript", reason="needs the extra `export`")
pytest.importorskip("onnxruntime", reason="needs the extra `export`")
pytestmark = pytest.mark.skipif(not exports_here(), reason="torch is too old to export")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(package, picture, data set): a detector of three classes, and a data set that has them."""
    folder = tmp_path_factory.mktemp("made")
    package, picture = make_package(folder)
    coco = CocoFolder(folder / "data")
    coco.document["categories"] = [{"id": key, "name": name} for key, name in ((0, "newt"), (7, "gnu"), (40, "owl"))]
    coco.add_image(1, width=60, height=40)
    coco.add_box([5, 5, 20, 10], image_id=1, category_id=7)
    coco.write()
    return package, picture, coco


def export_to_onnx(made, name, size):
    out = made[0].parent / name
    assert run_command("export", [str(made[0]), "--to", "onnx", "--out", str(out), *size]) == 0
    return out


@pytest.fixture(scope="module")
def exported(made):
    """The package as an ONNX file of one size."""
    return export_to_onnx(made, "model.onnx", ["--size", "64", "128"])


@pytest.fixture(scope="module")
def exported_of_any_size(made):
    return export_to_onnx(made, "of_any_size.onnx", ["--largest", "512"])


def assert_same(found, expected):
    assert len(found) == len(expected) > 0
    for one, other in zip(found, expected):
        assert one["category_name"] == other["category_name"] and one["category_id"] == other["category_id"]
        assert one["bbox"] == pytest.approx(other["bbox"], abs=0.05)
        assert one["score"] == pytest.approx(other["score"], abs=1e-3)


@pytest.mark.slow
def test_the_predictor_of_a_file_answers_as_that_of_its_package(made, exported_of_any_size):
    package, picture, _ = made
    expected = Predictor.from_pretrained(package)(picture, score_threshold=0.0)
    assert_same(Predictor(str(exported_of_any_size))(picture, score_threshold=0.0), expected)
    assert open_exported(exported_of_any_size).model.runtime.metadata["graph"]["height"] is None


def test_the_file_says_what_it_is_and_nothing_unfinished_is_left(made, exported):
    metadata = open_exported(exported).model.runtime.metadata
    assert [entry["name"] for entry in metadata["classes"]] == ["newt", "gnu", "owl"]
    assert [metadata["graph"][key] for key in ("batch", "height", "width")] == [1, 64, 128]
    assert metadata["thresholds"]["default"] == 0.3 and metadata["versions"]["torch"]
    assert not list(exported.parent.glob(".unfinished*")) and not list(exported.parent.glob("*named*"))


@pytest.mark.slow
def test_an_evaluation_of_the_file_gives_the_packages_numbers(made, exported_of_any_size, tmp_path):
    package, _, coco = made
    given = ["--data", str(coco.json_file), "--images", str(coco.images)]
    for place, out in ((package, "torch"), (exported_of_any_size, "onnx")):
        assert run_command("evaluate", [str(place), *given, "--output-dir", str(tmp_path / out)]) == 0
    of_torch, of_onnx = (
        json.loads((tmp_path / out / "coco_instances_results.json").read_text()) for out in ("torch", "onnx")
    )
    assert len(of_torch) == len(of_onnx) > 0
    for one, other in zip(of_torch, of_onnx):
        assert one["category_id"] == other["category_id"] and one["bbox"] == pytest.approx(other["bbox"], abs=0.05)


@pytest.mark.slow
def test_a_picture_larger_than_a_graph_of_one_size_is_scaled_to_fit(made):
    package, picture, _ = made
    out = package.parent / "small.onnx"
    assert run_command("export", [str(package), "--to", "onnx", "--out", str(out), "--size", "64", "64"]) == 0
    exported = open_exported(out)
    record = exported.mapper({"file_name": str(picture)})
    assert tuple(record["image"].shape) == (3, 64, 107)
    small = torch.nn.functional.interpolate(record["image"][None], size=(38, 64), mode="bilinear", antialias=True)[0]
    expected, found = exported.model([record | {"image": small}, record])
    assert len(found["instances"]) > 0 and found["instances"].image_size == (90, 150)
    torch.testing.assert_close(found["instances"].pred_boxes.tensor, expected["instances"].pred_boxes.tensor)


def test_a_file_that_exists_is_not_overwritten_and_formats_that_cannot_be_made_are_named(made, exported, capsys):
    package, picture = str(made[0]), str(made[1])
    assert run_command("export", [package, "--to", "onnx", "--out", str(exported)]) == 1
    assert "exists" in capsys.readouterr().err
    for name, words in (*MISSING.items(), ("tensorrt", "trtexec"), ("onx", "did you mean onnx")):
        assert run_command("export", [package, "--to", name]) == 2
        line = capsys.readouterr().err
        assert name in line and words in line and len(line.splitlines()) == 1
    assert run_command("export", [package, "--to", "openvino", "--dtype", "int8", "--images", picture]) == 2
    assert "--data" in capsys.readouterr().err
    assert run_command("export", [package, "--to", "onnx", "--dtype", "int8", "--images", picture]) == 2
    assert "openvino and ovms" in capsys.readouterr().err
    assert run_command("export", [package, "--to", "openvino", "--dtype", "int8"]) == 2
    assert "--images" in capsys.readouterr().err


def test_files_that_are_none_are_one_line(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        Predictor(str(tmp_path / "absent.onnx"))
    (tmp_path / "text.onnx").write_text("no graph")
    with pytest.raises(UserError, match="text.onnx cannot be run by onnxruntime"):
        Predictor(str(tmp_path / "text.onnx"))


def test_a_file_that_differs_is_told_apart_by_verify(made, exported, capsys):
    package, picture, _ = made
    assert run_command("export", [str(package), "--verify", str(exported), "--images", str(picture)]) == 0
    assert " 0 unmatched" in capsys.readouterr().out


def test_openvino_and_torch_export_answer_alike(made):
    pytest.importorskip("openvino", reason="needs the extra `export`")
    package, picture, _ = made
    expected = Predictor.from_pretrained(package)(picture, score_threshold=0.0)
    for name, suffix, size in (("openvino", ".xml", []), ("torch-export", ".pt2", ["--size", "64", "128"])):
        out = package.parent / f"model{suffix}"
        assert run_command("export", [str(package), "--to", name, "--out", str(out), *size]) == 0
        assert_same(Predictor(str(out))(picture, score_threshold=0.0), expected)


def test_without_a_compiler_there_is_no_compiled_package(made, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("CXX", "no-such-compiler")
    out = tmp_path / "compiled.pt2"
    assert run_command("export", [str(made[0]), "--to", "aotinductor", "--out", str(out)]) == 1
    assert "there is no no-such-compiler" in capsys.readouterr().err and not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
def test_a_compiled_package_answers_alike(made, tmp_path):
    package, picture, _ = made
    words = ["--out", str(tmp_path / "compiled.pt2"), "--size", "64", "128"]
    assert run_command("export", [str(package), "--to", "aotinductor", *words]) == 0
    expected = Predictor.from_pretrained(package)(picture, score_threshold=0.0)
    assert_same(Predictor(str(tmp_path / "compiled.pt2"))(picture, score_threshold=0.0), expected)


def test_pictures_are_predicted_on_the_command_line_as_by_the_package(made, exported, tmp_path):
    package, picture, _ = made
    found = {}
    for model in (package, exported):
        words = [str(model), str(picture), "--output-dir", str(tmp_path / model.name), "--score-threshold", "0"]
        assert run_command("predict", [*words, "--no-drawings"]) == 0
        found[model] = json.loads((tmp_path / model.name / "predictions.jsonl").read_text())
    assert_same(found[exported]["detections"], found[package]["detections"])


@pytest.mark.parametrize("words", [["model.num_queries=5"], ["--weights", "best"]])
def test_what_would_change_a_detector_is_refused_for_a_file(made, exported, words, capsys):
    for command in (["predict", str(made[1])], ["evaluate", "--data", str(made[2].json_file)]):
        assert run_command(command[0], [str(exported), *command[1:], *words]) == 2
        assert f"leave out {' '.join(words)}" in capsys.readouterr().err


def foreign(path, inputs, outputs):
    """An ONNX file that says nothing of itself; its outputs are zeros."""
    helper, float32 = onnx.helper, onnx.TensorProto.FLOAT
    takes = [helper.make_tensor_value_info(name, float32, shape) for name, shape in inputs.items()]
    gives = [helper.make_tensor_value_info(name, float32, shape) for name, shape in outputs.items()]
    zeros = [
        helper.make_tensor(f"{name}_0", float32, shape, [0.0] * math.prod(shape)) for name, shape in outputs.items()
    ]
    nodes = [helper.make_node("Identity", [f"{name}_0"], [name]) for name in outputs]
    graph = helper.make_graph(nodes, "foreign", takes, gives, zeros)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)


@pytest.mark.parametrize(
    "inputs, outputs, words",
    [
        ({"x": [1, 3, 128, 128]}, {"l": [1, 20, 3], "b": [1, 20, 4]}, "does not answer as package"),
        (
            {"x": [1, 3, 128, 128]},
            {"l": [1, 20, 3]},
            "not logits (B, Q, K) and boxes (B, Q, 4): l (1, 20, 3)",
        ),
        ({"x": [1, 3, 128, 128], "y": [2]}, {"b": [1, 20, 4]}, "takes x [1, 3, 128, 128] tensor(float), y [2]"),
        ({"x": [1, 128, 128, 3]}, {"b": [1, 20, 4]}, "(B, 3, H, W)"),
    ],
)
def test_a_file_from_elsewhere_is_verified_or_refused_with_what_it_is(made, tmp_path, inputs, outputs, words, capsys):
    foreign(tmp_path / "foreign.onnx", inputs, outputs)
    words_of = [str(made[0]), "--verify", str(tmp_path / "foreign.onnx"), "--images", str(made[1])]
    assert run_command("export", words_of) == 1
    assert words in capsys.readouterr().err


def test_what_is_no_exported_file_is_not_verified(made, capsys):
    assert run_command("export", [str(made[0]), "--verify", str(made[1])]) == 1
    assert "end in .onnx, .xml, .pt2" in capsys.readouterr().err


def own_detections(package, picture, folder):
    """A data set whose boxes are what the detector itself finds, so that its AP is 100."""
    truth = CocoFolder(folder)
    truth.document["categories"] = [{"id": key, "name": name} for key, name in ((0, "newt"), (7, "gnu"), (40, "owl"))]
    truth.add_image(1, file_name=picture.name, width=150, height=90, save=False)
    for found in Predictor.from_pretrained(package)(picture, score_threshold=0.0)[:3]:
        truth.add_box(found["bbox"], category_id=found["category_id"])
    truth.write()
    return truth


@pytest.mark.slow
@pytest.mark.parametrize("name, suffix", [("onnx", ".onnx"), ("openvino", ".xml")])
def test_fp16_that_keeps_the_ap_is_written_and_is_smaller(made, tmp_path, name, suffix, capsys):
    pytest.importorskip("openvino", reason="needs the extra `export`")
    package, picture, _ = made
    truth = own_detections(package, picture, tmp_path / "truth")
    words = [str(package), "--to", name, "--largest", "512", "--images", str(picture), "--out"]
    data = ["--dtype", "fp16", "--data", str(truth.json_file), "--data-images", str(picture.parent)]
    whole, half = tmp_path / f"whole{suffix}", tmp_path / f"half{suffix}"
    assert run_command("export", [*words, str(whole)]) == run_command("export", [*words, str(half), *data]) == 0
    assert "AP: PyTorch 100.00, this file " in capsys.readouterr().out
    assert size_mb(half) < size_mb(whole)  # most of so small a file is the graph
    assert open_exported(half).model.graph["dtype"] == "fp16"


@pytest.mark.slow
def test_int8_whose_ranges_are_of_other_pictures_is_not_written(made, tmp_path, capsys):
    for package_name in ("openvino", "nncf"):
        pytest.importorskip(package_name, reason="needs the extras `export` and `int8`")
    package, picture, _ = made
    truth = own_detections(package, picture, tmp_path / "truth")
    Image.new("RGB", (150, 90)).save(tmp_path / "black.png")
    words = [str(package), "--to", "openvino", "--dtype", "int8", "--out", str(tmp_path / "int8.xml")]
    data = ["--size", "64", "128", "--data", str(truth.json_file), "--data-images", str(picture.parent)]
    assert run_command("export", [*words, *data, "--images", str(tmp_path / "black.png")]) == 1
    assert "it loses" in capsys.readouterr().err and not list(tmp_path.glob("*int8*"))
