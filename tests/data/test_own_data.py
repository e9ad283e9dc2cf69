"""The recipe for own data, from a JSON with any ids to a COCO table with its names: a tiny detector, two iterations."""

import json

import pytest
import torch
from coco_folder import CocoFolder
from detectron2.config import LazyConfig, instantiate
from detectron2.data import DatasetCatalog, MetadataCatalog
from tiny_custom import CUSTOM_RECIPE, TINY_CUSTOM

from dinov2_detrex.cli import run_command
from dinov2_detrex.training.init_checkpoint import load_init_checkpoint

TINY = [
    *TINY_CUSTOM,
    "model.backbone.net.pretrained=false",
    "model.dn_number=3",
    "dataloader.train.total_batch_size=2",
    "dataloader.train.num_workers=0",
    "dataloader.test.num_workers=0",
    "train.max_iter=2",
    "train.seed=1",
]
NAMES_BY_ID = {40: "owl", 0: "newt", 7: "gnu"}  # from 0, with gaps, unordered


@pytest.fixture(autouse=True)
def fresh(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    yield
    for name in ("custom_train", "custom_val"):
        if name in DatasetCatalog.list():
            DatasetCatalog.remove(name)
            MetadataCatalog.remove(name)


def make_data(root, names_by_id):
    """Four images: an object of each class, one image without objects, one with a crowd; ids as careless as it gets."""
    coco = CocoFolder(root)
    coco.document["categories"] = [{"id": key, "name": name} for key, name in names_by_id.items()]
    for image_id in range(4):
        coco.add_image(image_id, width=60 + 10 * image_id, height=70)
    for index, category in enumerate(names_by_id):
        coco.add_box([5 * index, 10, 20, 30], image_id=0, category_id=category, id=index)
    coco.add_box([5, 5, 40, 40], image_id=1, category_id=next(iter(names_by_id)), id=7)
    coco.add_box([0, 0, 60, 60], image_id=2, category_id=next(iter(names_by_id)), id=8, iscrowd=1)
    return coco.write()


def paths(train, val):
    return [
        f"data.{split}.{key}='{value}'"
        for split, coco in (("train", train), ("val", val))
        for key, value in (("json", coco.json_file), ("images", coco.images))
    ]


def test_a_run_on_own_data_keeps_its_ids_and_names(tmp_path):
    data = make_data(tmp_path / "data", NAMES_BY_ID)
    out = tmp_path / "out"
    assert (
        run_command("train", ["--config-file", CUSTOM_RECIPE, *TINY, *paths(data, data), f"train.output_dir={out}"])
        == 0
    )

    found = json.loads((out / "coco_instances_results.json").read_text())
    assert {result["image_id"] for result in found} == {0, 1, 2, 3}
    assert {result["category_id"] for result in found} <= set(NAMES_BY_ID) and len(found) == 4 * 10
    assert json.loads(json.dumps(found)) and all(len(result["bbox"]) == 4 for result in found)
    metrics = [json.loads(line) for line in (out / "metrics.json").read_text().splitlines()]
    assert {"bbox/AP-newt", "bbox/AP-gnu", "bbox/AP-owl"} <= metrics[-1].keys()

    saved = torch.load(out / "model_final.pth", weights_only=True)
    assert saved["metadata"]["thing_classes"] == ["newt", "gnu", "owl"]
    assert saved["metadata"]["thing_dataset_id_to_contiguous_id"] == {0: 0, 7: 1, 40: 2}
    assert LazyConfig.load(str(out / "config.yaml")).model.num_classes == 3


def test_without_class_names_all_but_the_class_sized_tensors_are_taken_and_the_log_says_so(tmp_path, caplog):
    three, two = make_data(tmp_path / "3", NAMES_BY_ID), make_data(tmp_path / "2", {1: "cat", 2: "dog"})
    models = [
        instantiate(LazyConfig.apply_overrides(LazyConfig.load(CUSTOM_RECIPE), TINY + paths(data, data)).model)
        for data in (three, two)
    ]
    source, target = (model.state_dict() for model in models)
    before = {name: value.clone() for name, value in target.items()}
    torch.save({"model": source}, tmp_path / "three.pth")
    with caplog.at_level("WARNING"):
        load_init_checkpoint(models[1], str(tmp_path / "three.pth"))

    class_sized = {name for name in target if target[name].shape != source[name].shape}
    assert {name.split(".")[0] for name in class_sized} == {"class_embed", "label_enc", "transformer"}
    after = models[1].state_dict()
    assert all(torch.equal(after[name], before[name]) for name in class_sized)
    assert all(torch.equal(after[name], source[name]) for name in after.keys() - class_sized)
    for name in ("label_enc.weight", "class_embed.0.weight"):
        assert f"of another shape, e.g. {name} ((3, 32) in it, (2, 32) in the model)" in caplog.text


@pytest.mark.parametrize("split", ["train", "val"])
def test_harmful_data_ends_the_run_before_it_starts(tmp_path, capsys, split):
    good, bad = make_data(tmp_path / "good", NAMES_BY_ID), make_data(tmp_path / "bad", NAMES_BY_ID)
    (bad.images / "3.jpg").unlink()
    data = paths(bad, good) if split == "train" else paths(good, bad)
    out = tmp_path / "out"
    assert run_command("train", ["--config-file", CUSTOM_RECIPE, *TINY, *data, f"train.output_dir={out}"]) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert f"image 3: {bad.images / '3.jpg'} is missing" in line
    assert not (out / "config.yaml").exists() and not (out / "metrics.json").exists()


def test_without_paths_the_error_says_what_to_give(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run_command("train", ["--config-file", CUSTOM_RECIPE, *TINY]) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert "data.train.json=FILE data.train.images=FOLDER" in line


def test_classes_and_epochs_follow_from_the_json(tmp_path):
    data = make_data(tmp_path / "data", NAMES_BY_ID)
    cfg = LazyConfig.apply_overrides(LazyConfig.load(CUSTOM_RECIPE), paths(data, data))
    assert cfg.model.num_classes == cfg.model.criterion.num_classes == 3
    assert cfg.schedule.images_per_epoch == 4 and cfg.train.max_iter == 25  # 50 epochs x 4 images / batch of 8


@pytest.mark.parametrize("workers", [0, 1])
def test_a_file_damaged_within_ends_the_run_with_one_line_that_names_it(tmp_path, capsys, workers):
    coco = CocoFolder(tmp_path / "data")
    coco.document["categories"] = [{"id": 1, "name": "gnu"}]
    path = coco.add_image(1, file_name="torn.png", width=60, height=70)
    coco.add_box([5, 5, 20, 20])
    coco.write()
    content = bytearray(path.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 50] = bytes(50)
    path.write_bytes(content)  # header and end are whole, so only decoding shows it
    line = ["--config-file", CUSTOM_RECIPE, *TINY, *paths(coco, coco), f"train.output_dir={tmp_path / 'out'}"]
    assert (
        run_command("train", [*line, f"dataloader.train.num_workers={workers}", "dataloader.train.total_batch_size=1"])
        == 1
    )
    (error,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert str(path) in error and "cannot be read as an image" in error and "Traceback" not in error
