"""Data keep their boxes, names and counts through every form, split and join; nothing is written over or left half."""

import json
import os
from collections import Counter
from pathlib import Path

import pytest
from coco_folder import CocoFolder, noise_picture
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from tiny_custom import CUSTOM_RECIPE, TINY_CUSTOM

from dinov2_detrex.cli import run_command
from dinov2_detrex.config.loading import load
from dinov2_detrex.data import DatasetError, check_source, read_source
from dinov2_detrex.data import source as source_module
from dinov2_detrex.data.conversion import Checked, checked, write_folder
from dinov2_detrex.data.parts import parts_of
from dinov2_detrex.data.splitting import split_images
from dinov2_detrex.runtime.errors import UserError
from dinov2_detrex.training.datasets import check_datasets

CHECKOUT = Path(__file__).resolve().parents[2]
BCCD = Path(os.environ.get("DINOV2_DETREX_BCCD") or CHECKOUT.parent / "shared" / "data" / "bccd")
FORMS = ("coco", "yolo", "voc")
WIDTH, HEIGHT = 60, 40


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def contents(source, digits=3):
    """What training sees: {image stem: sorted (class, crowd, box)}, and the class names in their order."""
    report = check_source(source)
    assert not report.harmful
    stems = {image["id"]: Path(image["file_name"]).stem for image in report.repaired["images"]}
    boxes = {stem: [] for stem in stems.values()}
    for a in report.repaired["annotations"]:
        rounded = [round(value, digits) + 0.0 for value in a["bbox"]]
        boxes[stems[a["image_id"]]].append((source.classes[a["category_id"]], a["iscrowd"], *rounded))
    return {stem: sorted(entries) for stem, entries in boxes.items()}, list(source.classes.values())


def converted(source, form, folder):
    write_folder({"": checked(check_source(source), source)}, form, folder)
    return read_source(folder)


# -------------------------------------------------------------------------------------------------------- converting


coordinates = st.floats(0, 1, allow_subnormal=False)
boxes = st.tuples(st.integers(0, 2), st.integers(0, 2), coordinates, coordinates, coordinates, coordinates)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    for index in range(3):
        noise_picture(WIDTH, HEIGHT).save(folder / f"{index}.jpg")
    return folder


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    return tmp_path_factory.mktemp("scratch")


names = st.text(st.characters(categories=("L", "N", "P", "S")), min_size=1, max_size=8)


@settings(max_examples=25)
@given(st.lists(boxes, max_size=6), st.lists(names, min_size=3, max_size=3, unique=True), st.permutations([0, 4, 9]))
def test_boxes_names_and_counts_survive_a_journey_through_all_forms(pictures, scratch, drawn, names, ids):
    document = {
        "images": [{"id": i, "file_name": f"{i}.jpg", "width": WIDTH, "height": HEIGHT} for i in range(3)],
        "categories": [{"id": key, "name": name} for key, name in zip(ids, names)],
        "annotations": [],
    }
    for image, kind, left, top, across, down in drawn:
        x, y = left * (WIDTH - 2), top * (HEIGHT - 2)
        bbox = [x, y, 1.001 + across * (WIDTH - x - 1.001), 1.001 + down * (HEIGHT - y - 1.001)]
        entry = {"id": len(document["annotations"]) + 1, "image_id": image, "category_id": ids[kind], "bbox": bbox}
        document["annotations"].append(entry | {"iscrowd": 0, "area": 1.0})
    folder = scratch / str(len(os.listdir(scratch)))
    write_folder({"": Checked(document, str(pictures))}, "coco", folder / "first")
    first = read_source(folder / "first")
    assert first.load()["annotations"] == document["annotations"]
    expected, order = contents(first, digits=2)
    assert order == [name for _, name in sorted(zip(ids, names))]
    source = first
    for form in ("yolo", "voc", "coco"):
        source = converted(source, form, folder / form)
        found, found_order = contents(source, digits=2)
        assert found_order == order and found.keys() == expected.keys()
        for stem, entries in expected.items():
            assert Counter(entry[0] for entry in found[stem]) == Counter(entry[0] for entry in entries)
            for mine, theirs in zip(sorted(a[2:] for a in found[stem]), sorted(a[2:] for a in entries)):
                assert mine == pytest.approx(theirs, abs=0.02)


def full_coco(root):
    """A class without boxes, a crowd, a box of a pixel's width, one reaching over the border by rounding."""
    coco = CocoFolder(root)
    coco.document["categories"] = [{"id": i, "name": name} for i, name in ((7, "zebra"), (3, "yes"), (5, "null"))]
    for image_id in (1, 2):
        coco.add_image(image_id, width=WIDTH, height=HEIGHT)
    coco.add_box([-0.5, 0, 10, 10], category_id=7)
    coco.add_box([10, 10, 1, 20], category_id=3)
    coco.add_box([0, 0, 60, 40], image_id=2, category_id=7, iscrowd=1)
    return coco.write()


@pytest.mark.parametrize(
    "form, remark, crowds, boxes",
    [
        ("coco", {}, 1, 3),
        ("yolo", {"crowds left out": 1}, 0, 2),
        ("voc", {"boxes of at most one pixel's width or height left out": 1}, 1, 2),
    ],
)
def test_what_a_form_has_no_place_for_is_counted_and_all_else_stays(tmp_path, form, remark, crowds, boxes):
    coco = full_coco(tmp_path / "own")
    source = read_source(coco.json_file, coco.images)
    remarks = write_folder({"": checked(check_source(source), source)}, form, tmp_path / "new")
    assert +remarks == remark
    found, order = contents(read_source(tmp_path / "new"))
    assert order == ["yes", "null", "zebra"]  # by ascending id, the class without boxes among them
    entries = [entry for one in found.values() for entry in one]
    assert len(entries) == boxes and sum(entry[1] for entry in entries) == crowds
    assert ("zebra", 0, 0.0, 0.0, 9.5, 10.0) in found["1"]


def test_images_of_one_name_get_names_of_their_own(tmp_path):
    coco = CocoFolder(tmp_path / "own")
    for image_id, name in enumerate(("a/x.jpg", "b/x.jpg", "b/x.png", "b/X.jpg"), start=1):
        (coco.images / name).parent.mkdir(exist_ok=True)
        coco.add_image(image_id, name)
        coco.add_box([image_id, 1, 10, 10], image_id=image_id)
    coco.write()
    for form in FORMS:
        assert (
            run_command("data convert", [str(coco.json_file), "--to", form, "--output-dir", f"{tmp_path}/{form}"]) == 0
        )
        report = check_source(read_source(tmp_path / form))
        assert len({image["file_name"] for image in report.repaired["images"]}) == 4
        lefts = [annotation["bbox"][0] for annotation in report.repaired["annotations"]]
        assert sorted(lefts) == pytest.approx([1, 2, 3, 4])


@pytest.mark.parametrize("form", FORMS)
def test_nothing_is_written_over_and_nothing_half_written_stays(tmp_path, capsys, form, sound_coco):
    line = [str(sound_coco.json_file), "--to", form, "--output-dir", str(tmp_path / "new"), "--images", "copy"]
    (tmp_path / "new").mkdir()
    (tmp_path / "new/mine.txt").write_text("kept")
    assert run_command("data convert", line) == 1
    assert "new is there already, and nothing is written over" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["mine.txt"]
    (tmp_path / "new/mine.txt").unlink()
    (sound_coco.images / "2.jpg").unlink()
    assert run_command("data convert", line) == 1
    assert "2.jpg is missing" in capsys.readouterr().err
    source = read_source(sound_coco.json_file, sound_coco.images)
    with pytest.raises(FileNotFoundError):  # an image that is gone between the check and the copy
        write_folder({"": Checked(source.load(), str(sound_coco.images))}, form, tmp_path / "new", "copy")
    assert sorted(os.listdir(tmp_path)) == ["new", "own data"] and not os.listdir(tmp_path / "new")


def test_copies_do_not_need_the_originals(tmp_path, sound_coco):
    line = [str(sound_coco.json_file), "--to", "YOLO", "--output-dir", str(tmp_path / "new"), "--images", "copy"]
    assert run_command("data convert", line) == 0
    for file in sound_coco.images.iterdir():
        file.unlink()
    assert not check_source(read_source(tmp_path / "new")).harmful


@pytest.mark.parametrize("name", ["cat", " dog", "do\ng", ""])
def test_names_that_voc_cannot_hold_are_refused(tmp_path, sound_coco, name):
    sound_coco.document["categories"][1]["name"] = name
    source = read_source(sound_coco.write().json_file, sound_coco.images)
    with pytest.raises(DatasetError, match="rename"):
        write_folder({"": Checked(source.load(), source.image_root)}, "voc", tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_an_unknown_form_is_refused_with_the_known_ones(tmp_path, sound_coco, capsys):
    assert run_command("data convert", [str(sound_coco.json_file), "--to", "csv", "--output-dir", f"{tmp_path}/x"]) == 2
    assert "no form 'csv' to write: there are coco, voc, yolo" in capsys.readouterr().err


# --------------------------------------------------------------------------------------------------------- splitting


labels = st.lists(st.sets(st.integers(0, 4), max_size=3), min_size=10, max_size=60)


def labelled(classes_of_images):
    return {
        "images": [{"id": i, "file_name": f"{i:03d}.jpg"} for i, _ in enumerate(classes_of_images)],
        "annotations": [{"image_id": i, "category_id": c} for i, kinds in enumerate(classes_of_images) for c in kinds],
        "categories": [{"id": c, "name": str(c)} for c in range(5)],
    }


@given(labels, st.integers(0, 3))
def test_shares_are_a_partition_of_exact_sizes_whatever_order_the_images_have(classes_of_images, seed):
    document = labelled(classes_of_images)
    shares = split_images(document, [0.7, 0.3], seed)
    count = len(classes_of_images)
    assert shares[0] | shares[1] == set(range(count)) and not shares[0] & shares[1]
    assert abs(len(shares[0]) - 0.7 * count) <= 1
    assert split_images(document | {"images": document["images"][::-1]}, [0.7, 0.3], seed) == shares


def test_rare_classes_are_in_every_share_and_another_seed_draws_another():
    document = labelled([{0}] * 80 + [{0, 1}] * 5 + [{2}] * 5 + [set()] * 10)
    held_out = [split_images(document, [0.8, 0.2], seed)[1] for seed in range(5)]
    for share in held_out:
        kinds = Counter(a["category_id"] for a in document["annotations"] if a["image_id"] in share)
        assert kinds == {0: 17, 1: 1, 2: 1} and sum(image_id >= 90 for image_id in share) == 2
    assert len({tuple(sorted(share)) for share in held_out}) == 5


def test_too_few_images_are_not_split():
    with pytest.raises(DatasetError, match="1 images cannot be split by 0.8, 0.2: a part would be empty"):
        split_images(labelled([{0}]), [0.8, 0.2], 0)


def single_set(root, names_by_id, count=10):
    """A folder with one JSON and its images, each with a box of a class in turn."""
    coco = CocoFolder(root)
    coco.document["categories"] = [{"id": key, "name": name} for key, name in names_by_id.items()]
    for image_id in range(1, count + 1):
        coco.add_image(image_id)
        coco.add_box([image_id, 1, 20, 20], image_id=image_id, category_id=list(names_by_id)[image_id % 2])
    coco.write()
    coco.json_file.rename(root / "all.json")
    return root


def test_a_split_is_written_with_its_table_or_as_lists(tmp_path, capsys):
    root = single_set(tmp_path / "own", {1: "cat", 2: "dog"})
    line = [str(root), "--fractions", "0.6", "0.2", "0.2", "--output-dir"]
    assert run_command("data split", [*line, f"{tmp_path}/parts"]) == 0
    assert "val            2          2      1      1" in capsys.readouterr().out
    parts = parts_of(tmp_path / "parts")
    assert {name: source.num_images for name, source in parts.items()} == {"train": 6, "val": 2, "test": 2}
    assert run_command("data split", [*line, f"{tmp_path}/lists", "--to", "list"]) == 0
    listed = (tmp_path / "lists/val.txt").read_text().splitlines()
    assert {Path(file).name for file in listed} == {
        image["file_name"] for image in parts["val"].load()["images"]
    } and all(map(os.path.isfile, listed))


@pytest.mark.parametrize("fractions", [("1",), ("0.5", "0.4"), ("1", "0"), ("0.25",) * 4])
def test_fractions_that_are_no_whole_are_refused(fractions, tmp_path, capsys):
    assert run_command("data split", [str(tmp_path), "--output-dir", "absent", "--fractions", *fractions]) == 2
    assert capsys.readouterr().err.startswith("error: --fractions")


def test_a_run_splits_a_single_set_on_request_alone(tmp_path, caplog):
    root = single_set(tmp_path / "own", {1: "cat", 2: "dog"})
    with pytest.raises(UserError, match="is a single set of the format COCO; .*data.split=0.2"):
        load(CUSTOM_RECIPE, [*TINY_CUSTOM, f"data.path='{root}'"])
    cfg = load(CUSTOM_RECIPE, [*TINY_CUSTOM, f"data.path='{root}'", "data.split=0.2", "data.split_seed=3"])
    assert (cfg.schedule.images_per_epoch, cfg.model.num_classes) == (8, 2)
    train, val = (read_source(cfg.data[part].json).load() for part in ("train", "val"))
    files = [{image["file_name"] for image in part["images"]} for part in (train, val)]
    assert [len(part) for part in files] == [8, 2] and not files[0] & files[1]
    assert {annotation["category_id"] for annotation in val["annotations"]} == {1, 2}
    with caplog.at_level("INFO"):
        check_datasets(cfg.dataloader)
    assert "train: 8 images" not in caplog.text and "@held-out-0.2-seed-3: 2 images" in caplog.text


@pytest.mark.parametrize("value", ["0", "1", "-0.1", "half"])
def test_what_is_no_fraction_is_refused(tmp_path, value):
    root = single_set(tmp_path / "own", {1: "cat", 2: "dog"})
    with pytest.raises(UserError, match="is no fraction of a data set to hold out"):
        load(CUSTOM_RECIPE, [*TINY_CUSTOM, f"data.path='{root}'", f"data.split={value}"])


def test_a_folder_with_a_validation_part_is_not_split(tmp_path):
    root = single_set(tmp_path / "own", {1: "cat", 2: "dog"})
    assert run_command("data split", [str(root), "--output-dir", f"{tmp_path}/parts"]) == 0
    with pytest.raises(UserError, match="has a part for validation, val: leave data.split out"):
        load(CUSTOM_RECIPE, [*TINY_CUSTOM, f"data.path='{tmp_path}/parts'", "data.split=0.2"])


# ----------------------------------------------------------------------------------------------------------- joining


def test_data_sets_of_the_same_names_are_joined_whatever_their_ids(tmp_path):
    one = single_set(tmp_path / "one", {1: "cat", 2: "dog"}, count=4)
    two = single_set(tmp_path / "two", {0: "dog", 5: "cat"}, count=6)
    joined = read_source([one, two])
    document = joined.load()
    assert joined.classes == {1: "cat", 2: "dog"} and joined.num_images == 10
    names = [joined.classes[annotation["category_id"]] for annotation in document["annotations"]]
    assert names == ["dog", "cat"] * 2 + ["cat", "dog"] * 3
    assert not check_source(joined).harmful and not check_source(joined).notes


def test_data_sets_of_other_classes_are_not_joined_and_names_and_ids_are_shown(tmp_path):
    one = single_set(tmp_path / "one", {1: "cat", 2: "dog"})
    two = single_set(tmp_path / "two", {1: "cat", 7: "gnu"})
    with pytest.raises(DatasetError, match="cannot be joined.*the former has 1 cat, 2 dog, the latter 1 cat, 7 gnu"):
        read_source([one, two]).load()


def test_a_run_joins_and_splits_and_writes_it_down(tmp_path):
    roots = [single_set(tmp_path / name, {1: "cat", 2: "dog"}) for name in ("one", "two")]
    given = f"data.path=['{roots[0]}','{roots[1]}']"
    cfg = load(CUSTOM_RECIPE, [*TINY_CUSTOM, given, "data.split=0.2"])
    assert cfg.schedule.images_per_epoch == 16
    check_datasets(cfg.dataloader)
    resolved = OmegaConf.to_container(cfg.dataloader.test.dataset, resolve=True)
    assert resolved["json_file"] == [f"{root}#@held-out-0.2-seed-0" for root in roots]
    assert json.dumps(resolved["classes_from"]) and read_source(resolved["json_file"]).num_images == 4


# ----------------------------------------------------------------------------------------------------- reading once


def test_a_config_is_loaded_with_one_look_at_each_part_and_the_next_load_sees_changes(tmp_path, monkeypatch):
    root = single_set(tmp_path / "own", {1: "cat", 2: "dog"})
    looks = Counter()
    read_one = source_module._read_one

    def counting(path, image_root):
        looks[path] += 1
        return read_one(path, image_root)

    monkeypatch.setattr(source_module, "_read_one", counting)
    overrides = [*TINY_CUSTOM, f"data.path='{root}'", "data.split=0.5"]
    cfg = load(CUSTOM_RECIPE, overrides)
    assert set(looks.values()) == {1} and cfg.schedule.images_per_epoch == 5
    document = json.loads((root / "all.json").read_text())
    document["images"] = document["images"][:6]
    (root / "all.json").write_text(json.dumps(document))
    assert load(CUSTOM_RECIPE, overrides).schedule.images_per_epoch == 3


# --------------------------------------------------------------------------------------------------------- statistics


def test_statistics_in_json_are_a_plain_count(tmp_path, capsys):
    root = single_set(tmp_path / "own", {1: "cat", 2: "dog"})
    assert run_command("data stats", [str(root), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["all"]
    assert found["images"] == 10 and found["image_sizes_hw"] == {"min": [40, 60], "max": [40, 60]}
    assert [(entry["name"], entry["objects"], entry["small"]) for entry in found["classes"]] == [
        ("cat", 5, 5),
        ("dog", 5, 5),
    ]
    assert run_command("data stats", [str(root)]) == 0
    assert "10 images, 0 without objects; 10 objects" in capsys.readouterr().out


def test_the_check_of_a_config_is_that_of_its_paths(tmp_path, capsys):
    root = single_set(tmp_path / "own", {1: "cat", 2: "dog"})
    assert run_command("data split", [str(root), "--output-dir", f"{tmp_path}/parts", "--to", "voc"]) == 0
    capsys.readouterr()
    assert run_command("data check", [f"{tmp_path}/parts"]) == 0
    by_path = capsys.readouterr().out
    assert run_command("data check", ["--config-file", CUSTOM_RECIPE, f"data.path='{tmp_path}/parts'"]) == 0
    assert capsys.readouterr().out == by_path and "2 classes: cat, dog" in by_path


# ----------------------------------------------------------------------------------------------------- real pictures


@pytest.mark.skipif(not BCCD.is_dir(), reason=f"{BCCD} is not there; DINOV2_DETREX_BCCD names the folder of BCCD")
def test_real_photographs_survive_every_form(tmp_path):
    parts = {name: read_source(f"{BCCD}#{name}") for name in ("train", "val", "test")}
    sound = {name: checked(check_source(source), source) for name, source in parts.items()}
    assert sum(len(part.document["annotations"]) for part in sound.values()) == 4886  # 2 of 4,888 have no area
    expected = {name: contents(source) for name, source in parts.items()}
    for form in FORMS:
        assert not +write_folder(sound, form, tmp_path / form)
        assert {name: contents(source) for name, source in parts_of(tmp_path / form).items()} == expected
