"""The same boxes, names and counts from every form that people have their data in; what is wrong is one line."""

import os
from collections import Counter
from pathlib import Path

import pytest
from coco_folder import noise_picture
from detectron2.data import DatasetCatalog, MetadataCatalog
from format_writers import voc_object, voc_xml, write_coco, write_yolo, yolo_line
from hypothesis import given
from hypothesis import strategies as st
from tiny_custom import CUSTOM_RECIPE, TINY_CUSTOM

from dinov2_detrex.cli import run_command
from dinov2_detrex.config.loading import load
from dinov2_detrex.data import DatasetError, DatasetNotFoundError, check_source, coco_dataset_dicts, read_source
from dinov2_detrex.data.formats import voc, yolo
from dinov2_detrex.runtime.errors import UserError
from dinov2_detrex.training.datasets import check_datasets

CHECKOUT = Path(__file__).resolve().parents[2]
BCCD = Path(os.environ.get("DINOV2_DETREX_BCCD") or CHECKOUT.parent / "shared" / "data" / "bccd")


@pytest.fixture(autouse=True)
def fresh(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    yield
    for name in ("formats_test", "custom_train", "custom_val"):
        if name in DatasetCatalog.list():
            DatasetCatalog.remove(name)
            MetadataCatalog.remove(name)


def save_picture(path, width=60, height=40):
    path.parent.mkdir(parents=True, exist_ok=True)
    noise_picture(width, height).save(path)


def boxes_of(source):
    return [annotation["bbox"] for annotation in source.load()["annotations"]]


# ------------------------------------------------------------------------------------------------------------ YOLO


@pytest.fixture
def yolo_folder(tmp_path):
    """Two training images, one without objects, and a validation image; classes owl and gnu."""
    root = tmp_path / "cells"
    for name in ("images/train/a.png", "images/train/b.png", "images/val/c.png"):
        save_picture(root / name)
        (root / name.replace("images", "labels")).parent.mkdir(parents=True, exist_ok=True)
    (root / "labels/train/b.txt").write_text("1 0.5 0.5 0.5 0.25\n\n0 0.1 0.2 0.3 0.2 0.3 0.6\n")
    (root / "labels/val/c.txt").write_text("0 0.25 0.25 0.5 0.5\n")
    (root / "data.yaml").write_text("train: images/train\nval: images/val\ntest: images/absent\nnames: [owl, gnu]\n")
    return root


def test_a_yolo_folder_is_boxes_in_pixels_and_images_without_a_label_file_have_no_objects(yolo_folder):
    source = read_source(f"{yolo_folder}#train")
    document = source.load()
    assert source.classes == {0: "owl", 1: "gnu"} and source.num_images == 2
    assert [(image["file_name"], image["width"], image["height"]) for image in document["images"]] == [
        ("images/train/a.png", 60, 40),
        ("images/train/b.png", 60, 40),
    ]
    assert [(a["image_id"], a["category_id"]) for a in document["annotations"]] == [(2, 1), (2, 0)]
    assert boxes_of(source) == [pytest.approx([15, 15, 30, 10]), pytest.approx([6, 8, 12, 16])]  # box, polygon
    assert not check_source(source).harmless


@pytest.mark.parametrize(
    "description",
    [
        "train: ../train/images\nnames: [owl, gnu]",  # Roboflow, beside the folder it names
        "path: /not/here\ntrain: train/images\nnames: {0: owl, 1: gnu}",  # moved from elsewhere
        "path: ..\ntrain: cells/train/images\nnc: 2\nnames: [owl, gnu]",
        "train: [train/images]\nnames: [owl, gnu]",
        "train: list.txt\nnames: [owl, gnu]",
    ],
)
def test_folders_are_found_however_the_yaml_names_them(tmp_path, description):
    root = tmp_path / "cells"
    save_picture(root / "train/images/deep/a.b.jpg")
    (root / "train/labels/deep").mkdir(parents=True)
    (root / "train/labels/deep/a.b.txt").write_text("1 0.5 0.5 1 1")
    (root / "list.txt").write_text("./train/images/deep/a.b.jpg\n")
    (root / "data.yaml").write_text(description)
    for path in (root, root / "data.yaml"):  # its only part needs no name
        source = read_source(path)
        assert source.classes == {0: "owl", 1: "gnu"} and boxes_of(source) == [[0, 0, 60, 40]]
        assert (Path(source.image_root) / source.load()["images"][0]["file_name"]).samefile(
            root / "train/images/deep/a.b.jpg"
        )


def test_labels_beside_the_images_and_names_by_number_will_do(tmp_path):
    save_picture(tmp_path / "images/a.jpg")
    (tmp_path / "images/a.txt").write_text("1 .5 .5 .5 .5")
    (tmp_path / "data.yaml").write_text("train: images\nnc: 2")
    source = read_source(tmp_path)
    assert source.classes == {0: "class_0", 1: "class_1"} and boxes_of(source) == [[15, 10, 30, 20]]


def test_keypoints_behind_a_box_are_no_polygon(tmp_path):
    save_picture(tmp_path / "a.jpg")
    (tmp_path / "a.txt").write_text("0 .5 .5 .5 .5 .1 .1 .9 .9")
    (tmp_path / "data.yaml").write_text("train: .\nnames: [owl]\nkpt_shape: [2, 2]")
    assert boxes_of(read_source(tmp_path)) == [[15, 10, 30, 20]]


def test_a_changed_label_makes_another_source(yolo_folder):
    first = read_source(f"{yolo_folder}#train")
    assert read_source(f"{yolo_folder}#train") == first
    (yolo_folder / "labels/train/a.txt").write_text("0 .5 .5 .5 .5")
    assert read_source(f"{yolo_folder}#train") != first


@pytest.mark.parametrize(
    "line, message",
    [
        ("2 .5 .5 .5 .5", "class 2 is not one of the 2 classes, 0 to 1"),
        ("0.5 .5 .5 .5 .5", "class 0.5 is not"),
        ("-1 .5 .5 .5 .5", "class -1 is not"),
        ("owl .5 .5 .5 .5", "'owl' is not a number"),
        ("0 .5 .5 nan .5", "'nan' is not a number"),
        ("0 30 20 10 10", "30 is not between 0 and 1"),
        ("0 .5 .5 .5", "4 values; expected are class cx cy w h"),
        ("0 .5 .5 .5 .5 .9", "6 values"),
    ],
)
def test_a_wrong_label_is_one_line_with_file_line_and_value(yolo_folder, line, message):
    file = yolo_folder / "labels/train/b.txt"
    file.write_text(f"0 .5 .5 .5 .5\n{line}\n")
    with pytest.raises(DatasetError) as error:
        read_source(f"{yolo_folder}#train").load()
    assert str(error.value).startswith(f"{file}, line 2: {message}") and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "description, message",
    [
        ("train: images/train\nnames: [owl]\nnc: 2", "nc is 2, but there are 1 names"),
        ("train: images/train\nnames: {1: owl, 2: gnu}", r"the keys of names must be 0 to 1, not \[1, 2\]"),
        ("train: images/train\nnames: owl", "names is 'owl', not a list"),
        ("train: images/train", "names is None, not a list"),
        ("train: images/train\nnc: two", "nc is 'two', not the number"),
        ("train: images/nowhere\nnames: [owl]", "train is 'images/nowhere', which is not there"),
        ("train: 3\nnames: [owl]", "train is 3, not a folder"),
        ("names: [owl]", "names no images"),
        ("- owl", "must be a mapping"),
        ("names: [owl", "is not valid YAML"),
        ("train: !!python/object/apply:os.getcwd []\nnames: [owl]", "is not valid YAML"),
    ],
)
def test_a_wrong_yaml_is_one_line_with_file_and_value(yolo_folder, description, message):
    file = yolo_folder / "data.yaml"
    file.write_text(description)
    with pytest.raises(DatasetError, match=message) as error:
        read_source(yolo_folder).load()
    assert str(error.value).startswith(str(file)) and "\n" not in str(error.value)


def test_a_yolo_image_that_cannot_be_read_is_harmful_or_skipped_with_its_boxes(yolo_folder):
    (yolo_folder / "images/train/b.png").write_bytes(b"no picture")
    source = read_source(f"{yolo_folder}#train")
    assert "b.png" in check_source(source).harmful[0]
    report = check_source(source, skip_bad_images=True)
    assert not report.harmful and len(report.repaired["images"]) == 1 and not report.repaired["annotations"]


def test_the_check_repairs_a_yolo_folder_as_it_does_coco(yolo_folder):
    (yolo_folder / "labels/train/a.txt").write_text("0 .5 .5 0 .5\n0 .95 .5 .5 .5\n")
    report = check_source(read_source(f"{yolo_folder}#train"))
    assert report.harmless == {"boxes without area skipped": 1, "boxes clipped to their image": 1}
    assert report.repaired["annotations"][0]["bbox"] == pytest.approx([42, 10, 18, 20])


def test_an_image_folder_beside_what_the_yaml_says_is_refused(yolo_folder):
    with pytest.raises(DatasetError, match="data.yaml says where the images lie"):
        read_source(f"{yolo_folder}#train", yolo_folder / "images")


sizes = st.integers(1, 10_000)
shares = st.floats(0, 1, allow_subnormal=False)


@given(sizes, sizes, shares, shares, shares, shares)
def test_boxes_survive_yolo_text(width, height, left, top, across, down):
    bbox = [left * width, top * height, across * (1 - left) * width, down * (1 - top) * height]
    line = yolo_line(0, bbox, width, height)
    read = yolo._labelled_box(line, "here", num_classes=1, with_keypoints=False)
    assert read.label == 0 and yolo.xywh_from_yolo(read.box_cxcywh_norm, width, height) == pytest.approx(bbox, abs=1e-4)


@given(st.lists(st.tuples(shares, shares), min_size=3))
def test_a_polygon_lies_in_its_box_and_touches_each_side(points):
    line = " ".join(["0", *(repr(value) for point in points for value in point)])
    _, box = yolo._labelled_box(line, "here", num_classes=1, with_keypoints=False)
    x, y, w, h = yolo.xywh_from_yolo(box, 100, 100)
    for low, size, values in ((x, w, [p[0] * 100 for p in points]), (y, h, [p[1] * 100 for p in points])):
        assert [low, low + size] == pytest.approx([min(values), max(values)], abs=1e-9)


# ------------------------------------------------------------------------------------------------------ Pascal VOC


@pytest.fixture
def voc_folder(tmp_path):
    """Images a and b in train, c in val; classes gnu and owl, the latter in val alone."""
    root = tmp_path / "cells"
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    for name in ("a.jpg", "b.png", "c.jpg"):
        save_picture(root / "JPEGImages" / name)
    write_xml(root, "a", voc_object("gnu", 1, 1, 60, 40), voc_object("gnu", 11, 6, 20, 30, difficult=1))
    write_xml(root, "b")
    write_xml(root, "c", voc_object("owl", 5, 5, 10, 10))
    for split, names in (("train", "a\nb\n"), ("val", "c\n"), ("gnu_train", "a  1\nb -1\n")):
        (root / f"ImageSets/Main/{split}.txt").write_text(names)
    return root


def write_xml(root, stem, *objects, **changes):
    file = root / "Annotations" / f"{stem}.xml"
    file.write_text(voc_xml(objects, **changes))
    return file


def test_a_voc_folder_is_boxes_in_pixels_from_0_and_the_classes_of_all_its_files(voc_folder):
    source = read_source(f"{voc_folder}#train")
    assert source.classes == read_source(f"{voc_folder}#val").classes == {0: "gnu", 1: "owl"}
    assert [image["file_name"] for image in source.load()["images"]] == ["a.jpg", "b.png"]
    assert boxes_of(source) == [[0, 0, 60, 40], [10, 5, 10, 25]]  # pixels 1 to 60 are the whole width
    assert source.image_root == str(voc_folder / "JPEGImages")


def test_lists_per_class_are_no_splits(voc_folder):
    assert voc.splits(str(voc_folder)) == ["train", "val"]


def test_difficult_objects_are_crowds_and_counted(voc_folder):
    report = check_source(read_source(f"{voc_folder}#train"))
    assert report.harmless == {"ignored objects taken for crowds": 1} and not report.harmful
    assert [annotation["iscrowd"] for annotation in report.repaired["annotations"]] == [0, 1]


def test_without_lists_all_annotations_are_one_set(voc_folder):
    for file in (voc_folder / "ImageSets/Main").iterdir():
        file.unlink()
    assert read_source(voc_folder).num_images == 3
    with pytest.raises(DatasetError, match="#train has no part 'train': it is a single set"):
        read_source(f"{voc_folder}#train")


@pytest.mark.parametrize(
    "box, expected",
    [
        ((1, 1, 1, 40), [0, 0, 0, 40]),  # a click without a drag has no area
        ((20, 10, 5, 5), [19, 9, -15, -5]),
        ((0, 0, 10, 10), [0, 0, 10, 10]),  # counted from 0
        ((-5, 0.5, 10, 10), [-5, 0, 15, 10]),
        ((1.5, 2.5, 10.25, 20), [0.5, 1.5, 9.75, 18.5]),
    ],
)
def test_what_tools_write_instead_of_pixels_from_1(box, expected):
    assert voc.xywh_from_voc(*box) == expected


@given(st.integers(0, 5000), st.integers(0, 5000), st.integers(2, 5000), st.integers(2, 5000))
def test_whole_pixels_survive_voc(x, y, width, height):
    assert voc.xywh_from_voc(x + 1, y + 1, x + width, y + height) == [x, y, width, height]


def test_an_images_name_is_that_of_its_annotations_unless_only_the_stated_one_is_there(voc_folder):
    save_picture(voc_folder / "JPEGImages/a.png")
    save_picture(voc_folder / "JPEGImages/other.jpg")
    (voc_folder / "JPEGImages/b.png").unlink()
    write_xml(voc_folder, "a", file_name="a.png")
    write_xml(voc_folder, "b", file_name="other.jpg")
    write_xml(voc_folder, "c", file_name="other.jpg")
    files = [
        image["file_name"]
        for split in ("train", "val")
        for image in read_source(f"{voc_folder}#{split}").load()["images"]
    ]
    assert files == ["a.png", "other.jpg", "c.jpg"]


def test_a_size_that_is_not_the_images_is_harmful_and_0_is_none(voc_folder):
    write_xml(voc_folder, "a", width=0, height=0)
    write_xml(voc_folder, "b", width=40, height=60)
    (finding,) = check_source(read_source(f"{voc_folder}#train")).harmful
    assert "b.png is 60 x 40, the annotations say 40 x 60" in finding


@pytest.mark.parametrize(
    "old, new, line, message",
    [
        ("<xmin>1</xmin>", "<xmin>one</xmin>", 7, "xmin is 'one', not a number"),
        ("<xmin>1</xmin>", "<xmin>inf</xmin>", 7, "xmin is 'inf', not a number"),
        ("<xmin>1</xmin>", "<xmin/>", 7, "xmin is '', not a number"),
        ("<xmin>1</xmin>", "", 7, "bndbox has no xmin"),
        ("<name>gnu</name>", "<name> </name>", 4, "an object without a name"),
        ("bndbox", "polygon", 4, "'gnu' has no bndbox"),
        ("<width>60", "<width>sixty", 3, "width is 'sixty', not a number"),
        ("<annotation>", "<!DOCTYPE annotation>\n<annotation>", 1, "a DOCTYPE is not read"),
    ],
)
def test_a_wrong_annotation_is_one_line_with_file_line_and_value(voc_folder, old, new, line, message):
    file = voc_folder / "Annotations/a.xml"
    file.write_text(file.read_text().replace(old, new))
    with pytest.raises(DatasetError) as error:
        read_source(f"{voc_folder}#train").load()
    assert str(error.value).startswith(f"{file}, line {line}: {message}") and "\n" not in str(error.value)


def test_entities_are_never_expanded(voc_folder):
    file = voc_folder / "Annotations/a.xml"
    entities = "".join(f'<!ENTITY e{i + 1} "{f"&e{i};" * 10}">' for i in range(12))
    for inside in (f'<!ENTITY e0 "ha">{entities}', f'<!ENTITY e12 SYSTEM "{voc_folder}/ImageSets/Main/train.txt">'):
        file.write_text(f"<!DOCTYPE a [{inside}]><annotation><filename>&e12;</filename></annotation>")
        with pytest.raises(DatasetError, match="a DOCTYPE is not read"):
            voc.read_xml(file)


@pytest.mark.parametrize(
    "content", ["", "<annotation>", "no xml", "<a>&undefined;</a>", '<?xml version="1.0" encoding="x-y"?><a/>']
)
def test_what_is_no_xml_is_one_line(voc_folder, content):
    file = voc_folder / "Annotations/a.xml"
    file.write_text(content)
    with pytest.raises(DatasetError, match="a.xml is not valid XML: ") as error:
        read_source(f"{voc_folder}#train").load()
    assert "\n" not in str(error.value)


def test_a_listed_image_without_annotations_is_one_line_with_the_lists_line(voc_folder):
    file = voc_folder / "ImageSets/Main/train.txt"
    file.write_text("a\n\nabsent\n")
    with pytest.raises(DatasetError, match=f"{file}, line 3: 'absent' has no file Annotations/absent.xml"):
        read_source(f"{voc_folder}#train").load()


# ------------------------------------------------------------------------------------------------ parts of a folder


@pytest.mark.parametrize("folder", ["yolo_folder", "voc_folder"])
def test_a_part_is_named_behind_the_folder(folder, request):
    root = request.getfixturevalue(folder)
    with pytest.raises(
        DatasetError, match=f"{root} has several parts: there are train, val.*; name one as FOLDER#train"
    ):
        read_source(root)
    with pytest.raises(DatasetError, match=f"{root}#dev has no part 'dev': there are train, val"):
        read_source(f"{root}#dev")
    with pytest.raises(DatasetNotFoundError, match="absent is not there"):
        read_source(f"{root}/absent#train")


def test_a_mark_in_a_files_own_name_names_no_part(sound_coco):
    file = sound_coco.json_file.rename(sound_coco.root / "all#train")
    assert read_source(file).path == str(file)
    with pytest.raises(DatasetError, match="is of the format COCO, which has no part 'val'"):
        read_source(f"{file}#val")


def override(**values):
    return [f"data.{key.replace('_', '.')}='{value}'" for key, value in values.items()]


@pytest.mark.parametrize("folder, train, classes", [("yolo_folder", 2, 2), ("voc_folder", 2, 2)])
def test_one_path_sets_both_parts_and_says_what_it_found(folder, train, classes, request, caplog):
    root = request.getfixturevalue(folder)
    cfg = load(CUSTOM_RECIPE, [*TINY_CUSTOM, *override(path=root)])
    assert (cfg.data.train.json, cfg.data.val.json) == (f"{root}#train", f"{root}#val")
    assert (cfg.model.num_classes, cfg.schedule.images_per_epoch) == (classes, train)
    with caplog.at_level("INFO"):
        check_datasets(cfg.dataloader)
    (line,) = [record.getMessage() for record in caplog.records if "found data" in record.getMessage()]
    assert f"train {root}#train: 2 images; test {root}#val: 1 images; 2 classes: " in line


@pytest.mark.parametrize("name", ["valid", "validation"])
def test_the_validation_part_has_several_names(voc_folder, name):
    (voc_folder / "ImageSets/Main/val.txt").rename(voc_folder / f"ImageSets/Main/{name}.txt")
    assert load(CUSTOM_RECIPE, override(path=voc_folder)).data.val.json == f"{voc_folder}#{name}"


def test_without_a_validation_part_there_is_one_clear_line_and_naming_one_helps(voc_folder, capsys):
    (voc_folder / "ImageSets/Main/val.txt").rename(voc_folder / "ImageSets/Main/dev.txt")
    line = ["--config-file", CUSTOM_RECIPE, *override(path=voc_folder)]
    assert run_command("train", line) == 1
    (error,) = [text for text in capsys.readouterr().err.splitlines() if text.startswith("error:")]
    assert error.startswith(
        f"error: {voc_folder} has no part named val or valid or validation: its parts are train, dev"
    )
    assert "data.val.json=" in error
    cfg = load(CUSTOM_RECIPE, [*TINY_CUSTOM, *override(path=voc_folder, val_json=f"{voc_folder}#dev")])
    check_datasets(cfg.dataloader)


def test_a_path_that_is_not_there_is_one_clear_line(tmp_path):
    cfg = load(CUSTOM_RECIPE, override(path=tmp_path / "absent"))
    with pytest.raises(DatasetNotFoundError, match=r"absent not found; name yours with data.path=FOLDER"):
        check_datasets(cfg.dataloader)


def test_a_path_to_a_single_set_is_refused(sound_coco):
    with pytest.raises(UserError, match="train.json has no part named train: it is a single set of the format COCO"):
        load(CUSTOM_RECIPE, override(path=sound_coco.json_file))


# ------------------------------------------------------------------------------------- the same data in three forms


def contents(source):
    """What training sees after the check: {image stem: sorted (class, box rounded to 0.001 px)}, and class names."""
    report = check_source(source)
    assert not report.harmful
    document, names = report.repaired, source.classes
    stems = {image["id"]: Path(image["file_name"]).stem for image in document["images"]}
    boxes = {stem: [] for stem in stems.values()}
    for a in document["annotations"]:
        boxes[stems[a["image_id"]]].append((names[a["category_id"]], *(round(value, 3) + 0.0 for value in a["bbox"])))
    return {stem: sorted(entries) for stem, entries in boxes.items()}, names


@pytest.mark.skipif(not BCCD.is_dir(), reason=f"{BCCD} is not there; DINOV2_DETREX_BCCD names the folder of BCCD")
def test_real_photographs_are_the_same_data_in_every_form(tmp_path):
    documents = {split: read_source(f"{BCCD}#{split}").load() for split in ("train", "val", "test")}
    assert [len(document["images"]) for document in documents.values()] == [205, 87, 72]
    assert read_source(f"{BCCD}#trainval").num_images == 292
    counts = Counter(a["category_id"] for document in documents.values() for a in document["annotations"])
    assert counts == {0: 361, 1: 4155, 2: 372} and sum(counts.values()) == 4888

    images = BCCD / "JPEGImages"
    yolo_root = write_yolo(tmp_path / "yolo", documents, images)
    for split, document in documents.items():
        expected = contents(read_source(f"{BCCD}#{split}"))
        assert expected[1] == {0: "Platelets", 1: "RBC", 2: "WBC"} and len(expected[0]) == len(document["images"])
        assert contents(read_source(f"{yolo_root}#{split}")) == expected
        assert contents(read_source(write_coco(tmp_path / f"{split}.json", document), images)) == expected


def test_records_of_a_folder_are_what_a_json_gives(yolo_folder):
    records = coco_dataset_dicts("formats_test", f"{yolo_folder}#train", filter_empty=False)
    assert [len(record["annotations"]) for record in records] == [0, 2]
    assert all(Path(record["file_name"]).is_file() for record in records)
