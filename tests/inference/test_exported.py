"""An exported file stands in the detector's place: in a predictor, an evaluation, and the command that makes it."""

import json

import pytest
import torch
from coco_folder import CocoFolder
from PIL import Image
from tiny_custom import scoring_detector

from dinov2_detrex.cli import run_command
from dinov2_detrex.config.saving import write_config
from dinov2_detrex.export.onnx_file import exports_here
from dinov2_detrex.inference import Predictor
from dinov2_detrex.inference.exported import open_exported
from dinov2_detrex.runtime import files
from dinov2_detrex.runtime.errors import UserError

pytest.importorskip("onnx", reason="needs the extra `export`")
pytest.importorskip("onnxscript", reason="needs the extra `export`")
pytest.importorskip("onnxruntime", reason="needs the extra `export`")
pytestmark = pytest.mark.skipif(not exports_here(), reason="torch is too old to export")

METADATA = {"thing_classes": ["newt", "gnu", "owl"], "thing_dataset_id_to_contiguous_id": {0: 0, 7: 1, 40: 2}}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(package, picture, data set): a detector of three classes, and a data set that has them."""
    folder = tmp_path_factory.mktemp("made")
    cfg, model = scoring_detector()
    run = folder / "run"
    write_config(cfg, run)
    files.write(run / "model_best.pth", {"model": model.state_dict(), "metadata": METADATA, "iteration": 9})
    picture = run / "new.png"
    Image.effect_noise((150, 90), 80).convert("RGB").save(picture)
    assert run_command("package", [str(run), "--out", str(folder / "package"), "--examples", str(picture)]) == 0
    coco = CocoFolder(folder / "data")
    coco.document["categories"] = [{"id": key, "name": name} for key, name in ((0, "newt"), (7, "gnu"), (40, "owl"))]
    coco.add_image(1, width=60, height=40)
    coco.add_box([5, 5, 20, 10], image_id=1, category_id=7)
    coco.write()
    return folder / "package", picture, coco


@pytest.fixture(scope="module")
def exported(made):
    """The package as an ONNX file of any size."""
    out = made[0].parent / "model.onnx"
    assert run_command("export", [str(made[0]), "--to", "onnx", "--out", str(out), "--largest", "512"]) == 0
    return out


def assert_same(found, expected):
    assert len(found) == len(expected) > 0
    for one, other in zip(found, expected):
        assert one["category_name"] == other["category_name"] and one["category_id"] == other["category_id"]
        assert one["bbox"] == pytest.approx(other["bbox"], abs=0.05)
        assert one["score"] == pytest.approx(other["score"], abs=1e-3)


@pytest.mark.slow
def test_the_predictor_of_a_file_answers_as_that_of_its_package(made, exported):
    package, picture, _ = made
    expected = Predictor.from_pretrained(package)(picture, score_threshold=0.0)
    assert_same(Predictor(str(exported))(picture, score_threshold=0.0), expected)


def test_the_file_says_what_it_is_and_nothing_unfinished_is_left(made, exported):
    metadata = open_exported(exported).model.runtime.metadata
    assert [entry["name"] for entry in metadata["classes"]] == ["newt", "gnu", "owl"]
    assert metadata["graph"]["height"] is None and metadata["graph"]["batch"] == 1
    assert metadata["thresholds"]["default"] == 0.3 and metadata["versions"]["torch"]
    assert not list(exported.parent.glob(".unfinished*")) and not list(exported.parent.glob("*named*"))


@pytest.mark.slow
def test_an_evaluation_of_the_file_gives_the_packages_numbers(made, exported, tmp_path):
    package, _, coco = made
    given = ["--data", str(coco.json_file), "--images", str(coco.images)]
    for place, out in ((package, "torch"), (exported, "onnx")):
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
    package = str(made[0])
    assert run_command("export", [package, "--to", "onnx", "--out", str(exported)]) == 1
    assert "exists" in capsys.readouterr().err
    for name, words in (("tensorrt", "trtexec"), ("onx", "did you mean onnx"), ("coreml", "coremltools")):
        assert run_command("export", [package, "--to", name]) == 2
        assert words in capsys.readouterr().err
    assert run_command("export", [package, "--to", "onnx", "--dtype", "int8", "--images", package]) == 2
    assert "--data" in capsys.readouterr().err
    assert run_command("export", [package, "--to", "onnx", "--dtype", "int8"]) == 2
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
