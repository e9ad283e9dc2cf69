"""One value answers which classes, which images and how many, and a format of one's own is one function away."""

import csv
import dataclasses
import functools

import pytest
from detectron2.config import LazyCall as L
from detectron2.data import DatasetCatalog, MetadataCatalog, get_detection_dataset_dicts
from omegaconf import OmegaConf
from PIL import Image

from dinov2_detrex.config import classes_in, images_in
from dinov2_detrex.data import (
    DataFormat,
    DatasetError,
    DatasetNotFoundError,
    DataSource,
    check_source,
    class_names_of,
    coco_dataset_dicts,
    read_source,
    register_format,
)
from dinov2_detrex.data import source as source_module
from dinov2_detrex.data.source import file_version
from dinov2_detrex.runtime.errors import UserError
from dinov2_detrex.training.datasets import check_datasets, class_names

NAME = "source_test"


@pytest.fixture(autouse=True)
def fresh(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(source_module, "_registered", {})
    yield
    if NAME in DatasetCatalog.list():
        DatasetCatalog.remove(NAME)
        MetadataCatalog.remove(NAME)


# ------------------------------------------------------------------------------------------------------- one value


def test_a_source_answers_from_the_json(sound_coco):
    source = read_source(sound_coco.json_file, sound_coco.images)
    assert source.classes == {1: "cat", 2: "dog"} and source.num_images == 2
    assert source.path == source.json_file == str(sound_coco.json_file)
    assert source.image_root == str(sound_coco.images)
    assert source.load() == sound_coco.document


def test_a_source_is_read_once_for_its_questions_and_equals_itself_until_the_file_changes(sound_coco):
    reads = []
    first = read_source(sound_coco.json_file)
    counting = dataclasses.replace(first, load=lambda: reads.append(1) or first.load())
    assert counting.num_images == 2 and len(counting.classes) == 2 and reads == [1]
    assert first == counting == read_source(sound_coco.json_file)
    sound_coco.add_image(3)
    changed = read_source(sound_coco.write().json_file)
    assert changed != first and changed.num_images == 3


def test_a_json_is_recognised_by_its_name_or_by_its_beginning(sound_coco):
    other = sound_coco.json_file.rename(sound_coco.root / "instances_train")
    assert read_source(other).num_images == 2


def test_what_is_of_no_known_format_is_refused_with_the_known_ones(tmp_path):
    (tmp_path / "boxes.csv").write_text("image,class")
    for path in (tmp_path / "boxes.csv", tmp_path):
        with pytest.raises(DatasetError, match=f"{path} is of no known format; known are: .*COCO"):
            read_source(path)
    with pytest.raises(DatasetNotFoundError, match="absent"):
        read_source(tmp_path / "absent")


def test_a_source_without_an_image_folder_is_not_checked(sound_coco):
    with pytest.raises(DatasetError, match="train.json: the folder of its images is not given"):
        check_source(read_source(sound_coco.json_file))


# ------------------------------------------------------------------------------------------- a format of one's own


def load_rows(path):
    """Rows of file_name, class, x, y, width, height in pixels."""
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    files, names = (sorted({row[key] for row in rows}) for key in ("file_name", "class"))
    return {
        "images": [{"id": i, "file_name": name} for i, name in enumerate(files)],
        "categories": [{"id": i, "name": name} for i, name in enumerate(names)],
        "annotations": [
            {
                "image_id": files.index(row["file_name"]),
                "category_id": names.index(row["class"]),
                "bbox": [float(row[key]) for key in ("x", "y", "width", "height")],
            }
            for row in rows
        ],
    }


def read_rows(path, image_root):
    return DataSource(path, image_root, file_version(path), functools.partial(load_rows, path))


@pytest.fixture
def boxes(tmp_path):
    """Two images with three boxes of two classes in a format that is made known."""
    register_format(DataFormat("rows", lambda path: path.endswith(".rows"), read_rows))
    (tmp_path / "images").mkdir()
    for name in ("a.png", "b.png"):
        Image.new("RGB", (60, 40)).save(tmp_path / "images" / name)
    rows = ["file_name,class,x,y,width,height", "b.png,owl,1,2,10,10", "a.png,gnu,5,5,20,20", "b.png,gnu,30,5,40,20"]
    (tmp_path / "boxes.rows").write_text("\n".join(rows))
    return tmp_path / "boxes.rows"


@pytest.mark.parametrize("options", [{}, {"check": True}])
def test_a_format_of_ones_own_is_checked_registered_and_counted_like_any_other(boxes, options):
    records = coco_dataset_dicts(NAME, str(boxes), str(boxes.parent / "images"), **options)
    assert [[a["bbox"] for a in record["annotations"]] for record in records] == [
        [[5, 5, 20, 20]],
        [[1, 2, 10, 10], [30, 5, 30, 20]],  # clipped to its image
    ]
    assert [(record["height"], record["width"]) for record in records] == [(40, 60)] * 2
    assert class_names_of(NAME) == ["gnu", "owl"] and [a["category_id"] for a in records[1]["annotations"]] == [1, 0]
    assert (classes_in(str(boxes), 7), images_in(str(boxes), 7)) == (2, 2)
    assert (classes_in(f"{boxes}.absent", 7), images_in("", 7)) == (7, 7)


def config_of(dataset):
    return OmegaConf.create({"train": {"dataset": dataset}}, flags={"allow_objects": True})


def test_a_run_asks_a_format_of_ones_own_before_it_starts(boxes):
    paths = {"json_file": str(boxes), "image_root": str(boxes.parent / "images")}
    cfg = config_of(L(coco_dataset_dicts)(names=NAME, **paths, check=True))
    check_datasets(cfg)
    assert class_names(cfg.train) == ["gnu", "owl"]
    (boxes.parent / "images" / "a.png").unlink()
    boxes.write_text(boxes.read_text() + "\n")
    with pytest.raises(DatasetError, match="boxes.rows: image 0: .*a.png is missing"):
        check_datasets(cfg)


# ------------------------------------------------------------------------------------------------ names in a config


def own_records(names):
    return [{"file_name": "x.png"}]


def test_a_name_that_the_configs_own_function_may_register_is_left_to_it():
    check_datasets(config_of(L(own_records)(names=NAME)))


@pytest.mark.parametrize("target", [get_detection_dataset_dicts, "dinov2_detrex.data.coco_dataset_dicts"])
def test_a_name_that_nothing_registers_is_refused(target):
    dataset = L(get_detection_dataset_dicts)(names="coco_2017_trian")
    dataset._target_ = target
    with pytest.raises(UserError, match="coco_2017_trian.*coco_2017_train"):
        check_datasets(config_of(dataset))
