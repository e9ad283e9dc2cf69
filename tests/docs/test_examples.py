"""The notebook and the example scripts run, on tiny data."""

import csv
import json
import subprocess

import pytest
from fences import DOCS, ROOT, TINY, reader_environment

from dinov2_detrex.data import generate_shapes

NOTEBOOK = DOCS / "notebooks" / "from_pictures_to_boxes.ipynb"


@pytest.fixture
def shapes(tmp_path):
    """A data set of a few pictures, below datasets/ in the folder that is returned."""
    generate_shapes(root=tmp_path / "datasets" / "shapes", num_train=8, num_val=3)
    return tmp_path


@pytest.fixture
def run_script(shapes, python):
    environment = reader_environment(shapes)

    def run(*words: object) -> str:
        command = [python, *map(str, words)]
        done = subprocess.run(command, cwd=shapes, env=environment, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def test_draw_features_draws_a_run_that_was_never_trained(run_script, shapes):
    small = [change for change in TINY.split() if change.startswith("model.backbone.net.")]
    said = run_script(
        ROOT / "examples/draw_features.py", "dino_dinov2_b_12ep", "datasets/shapes/val/000001.jpg", *small
    )
    assert "blocks 0, 1, counted from 0" in said and (shapes / "output" / "features.png").is_file()


def test_patch_classifier_says_how_many_held_out_patches_it_gets_right(run_script):
    said = run_script(
        ROOT / "examples/patch_classifier.py", "datasets/shapes", "--model", "vit_tiny_patch16_224", "--images", 3
    )
    assert said.startswith("588 held-out patches: ")  # 3 images of 14 x 14


@pytest.mark.slow
def test_boxes_to_csv_writes_a_line_for_each_object_of_a_package(run_script, shapes):
    door = ["-c", "import sys; from dinov2_detrex.cli import main; sys.exit(main())"]
    run_script(*door, "train", "dino_dinov2_tiny_shapes", "train.output_dir=run", *TINY.split())
    run_script(*door, "package", "run", "--out", "detector")
    run_script(ROOT / "examples/boxes_to_csv.py", "detector", "datasets/shapes/val", "--score", 0)
    rows = list(csv.DictReader((shapes / "boxes.csv").open()))
    assert len(rows) == 3 * 10  # every query of every picture
    assert {row["picture"] for row in rows} == {"000000.jpg", "000001.jpg", "000002.jpg"}
    assert {row["class"] for row in rows} <= {"circle", "triangle", "square"}


@pytest.mark.slow
def test_the_notebook_runs_from_top_to_bottom(tmp_path, monkeypatch):
    nbformat = pytest.importorskip("nbformat", reason="the extra `docs` is not installed")
    nbclient = pytest.importorskip("nbclient", reason="the extra `docs` is not installed")
    pytest.importorskip("ipykernel", reason="the extra `docs` is not installed")
    for name, value in {**reader_environment(tmp_path), "NUM_TRAIN": "8", "EPOCHS": "2"}.items():
        monkeypatch.setenv(name, value)
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert (tmp_path / "output" / "notebook" / "model_final.pth").is_file()


def test_the_notebook_is_kept_without_outputs():
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    assert all(not cell["outputs"] for cell in cells if cell["cell_type"] == "code")
