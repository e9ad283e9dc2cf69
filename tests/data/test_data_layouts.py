"""The same data from every layout that people download, and what is ambiguous or absent is one line."""

import json
import shutil
from pathlib import Path

import pytest
from coco_folder import noise_picture
from format_writers import voc_object, voc_xml

from dinov2_detrex.cli import run_command
from dinov2_detrex.data import DatasetError, check_source, read_source
from dinov2_detrex.data.formats import coco
from dinov2_detrex.data.parts import parts_of

NAMES = ("owl", "gnu")


def save_picture(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    noise_picture(60, 40).save(path)


def document(*file_names):
    """Each image with a gnu of the whole image, in COCO's form with ids from 1."""
    return {
        "images": [{"id": i, "file_name": name, "width": 60, "height": 40} for i, name in enumerate(file_names, 1)],
        "annotations": [
            {"id": i, "image_id": i, "category_id": 2, "bbox": [0, 0, 60, 40], "area": 2400, "iscrowd": 0}
            for i, _ in enumerate(file_names, 1)
        ],
        "categories": [{"id": i, "name": name} for i, name in enumerate(NAMES, 1)],
    }


def write_json(file, *file_names):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(document(*file_names)))


def roboflow_coco(root):
    for part, name in (("train", "a.jpg"), ("valid", "b.jpg"), ("test", "c.jpg")):
        save_picture(root / part / name)
        write_json(root / part / "_annotations.coco.json", name)


def cocos_own(root):
    for part, name in (("train2017", "a.jpg"), ("val2017", "b.jpg"), ("test2017", "c.jpg")):
        save_picture(root / part / name)
        write_json(root / f"annotations/instances_{part}.json", name)
    (root / "annotations/captions_train2017.json").write_text('{"images": [], "annotations": []}')


def cocos_own_below_images(root):
    cocos_own(root)
    (root / "images").mkdir()
    for part in ("train2017", "val2017", "test2017"):
        (root / part).rename(root / "images" / part)


def jsons_by_name(root):
    for part, name in (("train", "a.jpg"), ("val", "b.jpg"), ("test", "c.jpg")):
        save_picture(root / "images" / name)
        write_json(root / f"my_{part}.json", name)


def file_names_with_folders(root):
    for part, name in (("train", "pics/t/a.jpg"), ("val", "pics/b.jpg"), ("test", "c.jpg")):
        save_picture(root / name)
        write_json(root / "annotations" / f"{part}.json", name)


def roboflow_yolo(root):
    for part, name in (("train", "a"), ("valid", "b"), ("test", "c")):
        save_picture(root / part / "images" / f"{name}.JPG")
        (root / part / "labels").mkdir()
        (root / part / "labels" / f"{name}.txt").write_text("1 0.5 0.5 1 1")
    paths = "train: ../train/images\nval: ../valid/images\ntest: ../test/images\n"
    (root / "data.yaml").write_text(f"{paths}\nnc: 2\nnames: ['owl', 'gnu']\n")


def roboflow_voc(root):
    for part, name in (("train", "a"), ("valid", "b"), ("test", "c")):
        save_picture(root / part / f"{name}.jpg")
        (root / part / f"{name}.xml").write_text(voc_xml([voc_object("gnu", 1, 1, 60, 40)], file_name=f"{name}.jpg"))


LAYOUTS = (
    roboflow_coco,
    cocos_own,
    cocos_own_below_images,
    jsons_by_name,
    file_names_with_folders,
    roboflow_yolo,
    roboflow_voc,
)


@pytest.mark.parametrize("make", LAYOUTS, ids=lambda make: make.__name__)
@pytest.mark.parametrize("folder", ["plain", "with space # and ünïcode"])
def test_every_layout_has_its_three_parts_with_their_images_and_boxes(tmp_path, make, folder):
    root = tmp_path / folder
    make(root)
    parts = parts_of(root)
    assert list(parts) == ["train", "val", "test"]
    for (name, source), stem in zip(parts.items(), "abc"):
        report = check_source(source)
        assert not report.harmful, name
        (image,), (annotation,) = report.repaired["images"], report.repaired["annotations"]
        assert Path(image["file_name"]).stem == stem and annotation["bbox"] == [0, 0, 60, 40]
        assert source.classes[annotation["category_id"]] == "gnu"


@pytest.mark.parametrize("images", ["images", "photos", "."])
def test_one_json_and_a_folder_of_images_are_a_single_set(tmp_path, images):
    (tmp_path / "empty").mkdir()
    save_picture(tmp_path / images / "a.png")
    write_json(tmp_path / "export.json", "a.png")
    (tmp_path / "settings.json").write_text('{"images": "png"}')
    source = read_source(tmp_path)
    assert Path(source.image_root).samefile(tmp_path / images) and not check_source(source).harmful
    assert coco.splits(str(tmp_path)) == [] and list(parts_of(tmp_path / "export.json")) == [""]


def test_two_years_of_a_part_go_by_their_full_names(tmp_path):
    for year in ("train2014", "train2017"):
        save_picture(tmp_path / year / "a.jpg")
        write_json(tmp_path / f"annotations/instances_{year}.json", "a.jpg")
    assert coco.splits(str(tmp_path)) == ["train2014", "train2017"]
    assert read_source(f"{tmp_path}#train2014").image_root == str(tmp_path / "train2014")


def test_a_part_with_two_jsons_is_refused(tmp_path):
    roboflow_coco(tmp_path)
    write_json(tmp_path / "train/old.json", "a.jpg")
    with pytest.raises(DatasetError, match="train holds 2 JSONs in COCO's format .*leave one there"):
        parts_of(tmp_path)


def test_a_folder_in_two_formats_is_refused_with_both(tmp_path):
    roboflow_coco(tmp_path)
    (tmp_path / "data.yaml").write_text("train: train\nnames: [owl]")
    with pytest.raises(DatasetError, match="has annotations in the formats COCO and YOLO"):
        read_source(f"{tmp_path}#train")


def test_an_empty_folder_is_called_empty(tmp_path):
    with pytest.raises(DatasetError, match="is an empty folder; known are: COCO, Pascal VOC, YOLO"):
        read_source(tmp_path)


def test_forgotten_labels_are_no_images_without_objects(tmp_path):
    roboflow_yolo(tmp_path)
    shutil.rmtree(tmp_path / "train/labels")
    with pytest.raises(DatasetError, match="none of the 1 images of train has a label file .looked for .*a.txt"):
        read_source(f"{tmp_path}#train").load()


def test_roboflow_names_a_test_part_that_may_not_be_there(tmp_path):
    roboflow_yolo(tmp_path)
    shutil.rmtree(tmp_path / "test")
    assert list(parts_of(tmp_path)) == ["train", "val"]


def test_xml_of_other_tools_is_no_voc(tmp_path):
    (tmp_path / "annotations.xml").write_text("<annotations><image/></annotations>")
    with pytest.raises(DatasetError, match="of no known format"):
        read_source(tmp_path)


def test_xml_beside_images_is_a_single_set_with_capital_endings_too(tmp_path):
    save_picture(tmp_path / "a.JPG")
    (tmp_path / "a.XML").write_text(voc_xml([voc_object("gnu", 1, 1, 60, 40)]))
    source = read_source(tmp_path)
    assert source.load()["images"][0]["file_name"] == "a.JPG" and not check_source(source).harmful


def test_linked_folders_are_read_through(tmp_path):
    roboflow_yolo(tmp_path / "real")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert [source.num_images for source in parts_of(tmp_path / "link").values()] == [1, 1, 1]


def test_a_name_that_is_no_text_is_read_checked_and_printed(tmp_path, capfd):
    roboflow_yolo(tmp_path)
    for folder, ending in (("images", "JPG"), ("labels", "txt")):
        file = tmp_path / "train" / folder / f"a.{ending}"
        file.rename(tmp_path / "train" / folder / f"\udce9.{ending}")
    assert run_command("data check", [str(tmp_path)]) == 0
    (tmp_path / "train/images/\udce9.JPG").write_bytes(b"no picture")
    assert run_command("data check", [str(tmp_path)]) == 1
    assert "\\udce9.JPG cannot be read as an image" in capfd.readouterr().out
