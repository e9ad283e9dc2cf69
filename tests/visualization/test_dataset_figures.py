"""Statistics equal a plain count, figures show what is there, and the tool stops at harmful data."""

import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.config import LazyConfig
from detectron2.structures import BoxMode
from PIL import Image

from dinov2_detrex.config import recipes_dir
from dinov2_detrex.data import coco_dataset_dicts
from dinov2_detrex.data.loader import build_train_loader
from dinov2_detrex.visualization import dataset_figures
from dinov2_detrex.visualization.dataset_figures import draw_augmented, draw_statistics, visualize
from dinov2_detrex.visualization.dataset_statistics import collect_statistics, describe_statistics

TOOL = Path(__file__).parents[2] / "tools" / "visualize_data.py"
CONFIG = "projects/dino_dinov2/configs/custom/dino_dinov2_s_custom.py"


@pytest.fixture
def mixed(sound_coco):
    """Two images with a box each, one with none, one with a crowd and two boxes."""
    sound_coco.add_image(3)
    sound_coco.add_image(4, width=300, height=200)
    sound_coco.add_box([0, 0, 200, 100], image_id=4, iscrowd=1)
    sound_coco.add_box([100, 50, 120, 120], image_id=4, category_id=2)
    sound_coco.add_box([10, 20, 4, 9], image_id=4, category_id=2)
    return sound_coco.write()


@pytest.fixture
def records(mixed):
    return coco_dataset_dicts("figures_test_set", str(mixed.json_file), str(mixed.images), filter_empty=False)


def test_statistics_equal_a_plain_count(records):
    statistics = collect_statistics(records, ["cat", "dog"])
    assert statistics.objects_per_image.tolist() == [1, 1, 0, 2]
    assert statistics.classes.tolist() == [0, 1, 1, 1] and statistics.crowds.tolist() == [1, 0]
    assert statistics.image_hw.tolist() == [[40, 60], [80, 50], [40, 60], [200, 300]]
    np.testing.assert_allclose(statistics.sides_px, [200**0.5, (30 * 40.25) ** 0.5, 120, 6])
    np.testing.assert_allclose(statistics.centres_norm[0], [15 / 60, 10 / 40])
    np.testing.assert_allclose(statistics.centres_norm[2], [160 / 300, 110 / 200])


def test_the_table_has_a_row_for_each_class_and_one_for_all(records):
    text = describe_statistics(collect_statistics(records, ["cat", "dog", "unicorn"]))
    assert "4 images, 1 without objects; 4 objects, 1.0 an image, 2 at most" in text
    rows = {line.split()[0]: line.split()[1:] for line in text.splitlines()[3:]}
    assert rows["cat"] == ["1", "1", "25.0", "14.1", "100.0", "0.0", "1"]
    assert rows["dog"][:3] == ["2", "3", "75.0"] and rows["all"][:2] == ["3", "4"]
    assert rows["unicorn"][:4] == ["0", "0", "0.0", "nan"]


def test_a_data_set_without_objects_has_statistics_and_a_figure(records, tmp_path):
    empty = [record | {"annotations": []} for record in records]
    statistics = collect_statistics(empty, ["cat", "dog"])
    assert "4 without objects; 0 objects" in describe_statistics(statistics)
    draw_statistics(statistics, tmp_path / "statistics.png")
    assert Image.open(tmp_path / "statistics.png").size[0] > 1000


def test_another_data_set_gives_another_figure(records, tmp_path):
    draw_statistics(collect_statistics(records, ["cat", "dog"]), tmp_path / "a.png")
    draw_statistics(collect_statistics(records[:1], ["cat", "dog"]), tmp_path / "b.png")
    a, b = (np.asarray(Image.open(tmp_path / name).convert("L"), dtype=int) for name in ("a.png", "b.png"))
    assert a.shape == b.shape and (np.abs(a - b) > 30).mean() > 0.02


@pytest.mark.parametrize("order", ["RGB", "BGR", "L"])
def test_augmented_pictures_show_true_colours_and_the_boxes_of_the_loss(tmp_path, order):
    from dinov2_detrex.data import DetrDatasetMapper

    Image.new("RGB", (40, 40), (200, 30, 90)).save(tmp_path / "x.png")
    annotation = {"bbox": [10, 10, 20, 20], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 0}
    record = {"file_name": str(tmp_path / "x.png"), "height": 40, "width": 40, "annotations": [annotation]}
    item = DetrDatasetMapper([], None, img_format=order)(record)
    sheet = draw_augmented([[item]], ["cat"], tmp_path / "sheet.png", image_format=order, tile_px=80)
    tile = np.asarray(Image.open(sheet).convert("RGB"))[26 : 26 + 80, 6 : 6 + 80]
    expected = (200, 30, 90) if order != "L" else (int(0.299 * 200 + 0.587 * 30 + 0.114 * 90),) * 3
    np.testing.assert_allclose(tile[75, 5], expected, atol=1)
    assert np.ptp(tile[40, 20:60].astype(int), axis=0).max() > 30  # the box's left and right line
    assert np.abs(tile[40, 25:55].astype(int) - tile[75, 5]).max() <= 1


def overrides(coco, **changes):
    paths = {"json": coco.json_file, "images": coco.images} | changes
    return [f"data.{split}.{key}='{value}'" for split in ("train", "val") for key, value in paths.items()]


def load_recipe(coco):
    cfg = LazyConfig.load(str(recipes_dir() / CONFIG))
    return LazyConfig.apply_overrides(cfg, overrides(coco))


def test_own_data_are_drawn_and_described(mixed, tmp_path, capsys):
    assert visualize(load_recipe(mixed), tmp_path / "drawn", num_images=3)
    printed = capsys.readouterr().out
    assert printed.count("nothing to complain of") == 2 and "4 images, 1 without objects" in printed
    names = [path.name for path in sorted((tmp_path / "drawn").iterdir())]
    assert names == ["augmented.png", "statistics.png", "statistics.txt"]


def test_drawn_is_what_a_run_of_the_same_seed_trains_on_first(mixed, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(dataset_figures, "draw_augmented", lambda batches, *rest: drawn.append(next(iter(batches))))
    cfg = load_recipe(mixed)
    cfg.dataloader.train.total_batch_size, cfg.dataloader.train.num_workers = 2, 1
    visualize(cfg, tmp_path / "drawn", seed=5)
    (batch,) = drawn
    trained = next(iter(build_train_loader(cfg.dataloader.train, seed=5)))
    assert [item["file_name"] for item in batch] == [item["file_name"] for item in trained]
    assert all(torch.equal(item["image"], other["image"]) for item, other in zip(batch, trained))


def test_all_errors_are_printed_and_nothing_is_drawn(mixed, tmp_path, capsys):
    for image_id in range(20, 26):
        mixed.add_image(image_id, save=False)
    assert not visualize(load_recipe(mixed.write()), tmp_path / "drawn")
    printed = capsys.readouterr().out
    assert all(f"error: image {image_id}:" in printed for image_id in range(20, 26))
    assert not (tmp_path / "drawn").exists()


def test_the_tool_says_in_one_line_what_is_missing(mixed, tmp_path, python, python_env):
    command = [python, str(TOOL), "--config-file", CONFIG, *overrides(mixed, json=tmp_path / "absent.json")]
    done = subprocess.run(command, env=python_env, capture_output=True, text=True, timeout=300, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].startswith("error: data set 'custom_train'")
    assert "absent.json not found" in done.stderr and "Traceback" not in done.stderr
