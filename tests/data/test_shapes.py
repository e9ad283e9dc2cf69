"""The generated shapes data set: exact boxes, same bytes, and never half a data set."""

import hashlib
import json
import subprocess

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from dinov2_detrex.data import datasets_root, generate_shapes, generated, shapes
from dinov2_detrex.data.outlines import polygon_area
from dinov2_detrex.data.painting import coverage

SMALL = dict(num_train=12, num_val=6, image_size=96, seed=3)
SPLITS = {"train": 12, "val": 6}


@pytest.fixture(scope="module")
def small_set(tmp_path_factory):
    return generate_shapes(tmp_path_factory.mktemp("sets") / "shapes", **SMALL)


def digest(root):
    """One hash of all names and bytes under a folder."""
    files = sorted(path for path in root.rglob("*") if path.is_file())
    assert len(files) == 3 + sum(SPLITS.values())
    return hashlib.sha256(b"".join(str(f.relative_to(root)).encode() + f.read_bytes() for f in files)).hexdigest()


def test_same_arguments_give_the_same_bytes(small_set, tmp_path):
    assert digest(generate_shapes(tmp_path / "again", **SMALL)) == digest(small_set)


def test_another_seed_gives_other_pictures(small_set, tmp_path):
    assert digest(generate_shapes(tmp_path / "other", **SMALL | {"seed": 4})) != digest(small_set)


def test_a_picture_does_not_depend_on_how_many_others_are_made(small_set, tmp_path):
    longer = generate_shapes(tmp_path / "longer", **SMALL | {"num_train": 20})
    name = "train/000007.jpg"
    assert (longer / name).read_bytes() == (small_set / name).read_bytes()


@pytest.mark.parametrize("split", SPLITS)
def test_pycocotools_reads_it_and_sizes_are_true(small_set, split):
    coco = COCO(small_set / "annotations" / f"instances_{split}.json")
    assert len(coco.imgs) == SPLITS[split]
    assert [category["name"] for category in coco.loadCats(coco.getCatIds())] == ["circle", "triangle", "square"]
    for image in coco.imgs.values():
        with Image.open(small_set / split / image["file_name"]) as picture:
            assert picture.size == (image["width"], image["height"])
            assert all(72 <= side <= 96 for side in picture.size)
        assert 1 <= len(coco.getAnnIds(imgIds=image["id"])) <= 5


def test_train_and_val_share_no_picture(small_set):
    train, val = ({f.read_bytes() for f in (small_set / split).iterdir()} for split in SPLITS)
    assert len(train) == 12 and len(val) == 6 and not train & val


@pytest.mark.parametrize("name", shapes.OUTLINES_XY)
def test_boxes_are_tight_around_the_painted_pixels(name):
    """Paint one object on black and look where pixels changed."""
    for seed in range(10):
        rng = np.random.default_rng(seed)
        item = shapes._draw_object(rng, (90, 120), (name,))
        canvas = np.zeros((90, 120, 3))
        shapes._paint_object(rng, canvas, item["corners"])
        rows, columns = np.nonzero(canvas.sum(axis=2) > 20)
        painted = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
        np.testing.assert_allclose(item["box"], painted, atol=1.5)


def test_area_is_that_of_the_painted_pixels():
    for name in shapes.OUTLINES_XY:
        corners = shapes._draw_object(np.random.default_rng(1), (200, 200), (name,))["corners"]
        covered = coverage([corners], np.array([0, 0, 200, 200])).sum()
        assert polygon_area(corners) == pytest.approx(covered, rel=0.06)


def test_no_object_hides_another(small_set):
    document = json.loads((small_set / "annotations" / "instances_train.json").read_text())
    for image in document["images"]:
        boxes = [a["bbox"] for a in document["annotations"] if a["image_id"] == image["id"]]
        for i, (x, y, w, h) in enumerate(boxes):
            for x2, y2, w2, h2 in boxes[i + 1 :]:
                overlap = max(0, min(x + w, x2 + w2) - max(x, x2)) * max(0, min(y + h, y2 + h2) - max(y, y2))
                assert overlap <= 0.26 * min(w * h, w2 * h2)


def test_a_second_call_regenerates_nothing(tmp_path):
    root = generate_shapes(tmp_path / "shapes", **SMALL)
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    assert generate_shapes(root, **SMALL) == root
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before


def test_other_arguments_make_it_anew(tmp_path):
    root = generate_shapes(tmp_path / "shapes", **SMALL)
    generate_shapes(root, **SMALL | {"num_val": 2, "class_names": ("star", "cross")})
    document = json.loads((root / "annotations" / "instances_val.json").read_text())
    assert len(document["images"]) == len(list((root / "val").iterdir())) == 2
    assert [category["name"] for category in document["categories"]] == ["star", "cross"]
    assert list(tmp_path.iterdir()) == [root]


def test_an_interrupted_generation_is_not_taken_for_complete(tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(generated, "_coco_annotation", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            generate_shapes(tmp_path / "shapes", **SMALL)
    assert list(tmp_path.iterdir()) == []
    assert len(digest(generate_shapes(tmp_path / "shapes", **SMALL))) == 64


def test_a_folder_with_other_files_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("irreplaceable")
    with pytest.raises(FileExistsError, match="give another root"):
        generate_shapes(tmp_path, **SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("wrong", [{"class_names": ("circle", "blob")}, {"image_size": 8}, {"num_val": 0}])
def test_wrong_arguments_are_named(tmp_path, wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        generate_shapes(tmp_path / "shapes", **SMALL | wrong)
    assert list(tmp_path.iterdir()) == []


def test_the_command_writes_under_detectron2_datasets(tmp_path, python, python_env):
    env = python_env | {"DETECTRON2_DATASETS": str(tmp_path / "all")}
    command = [python, "-W", "error", "-m", "dinov2_detrex.data.shapes", "--num-train", "2", "--num-val", "1"]
    subprocess.run(command, env=env, check=True, timeout=300, cwd=tmp_path)
    assert len(list((tmp_path / "all" / "shapes" / "train").iterdir())) == 2


def test_the_root_follows_detectron2_datasets(monkeypatch, tmp_path):
    monkeypatch.delenv("DETECTRON2_DATASETS", raising=False)
    assert str(datasets_root()) == "datasets"
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    assert datasets_root() == tmp_path


def test_outlines_lie_in_their_boxes_and_have_the_area_that_is_told(small_set):
    annotations = json.loads((small_set / "annotations" / "instances_train.json").read_text())["annotations"]
    for annotation in annotations:
        (flat,) = annotation["segmentation"]
        corners, (x, y, w, h) = np.reshape(flat, (-1, 2)), annotation["bbox"]
        np.testing.assert_allclose([*corners.min(0), *corners.max(0)], [x, y, x + w, y + h], atol=0.02)
        assert polygon_area(corners) == pytest.approx(annotation["area"], rel=0.01)
