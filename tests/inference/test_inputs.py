"""A picture is answered alike in every form that it is handed over in, alone, among others, and in tiles."""

import json
import shutil

import numpy as np
import pytest
import torch
from detectron2.data import DatasetMapper
from PIL import Image

from dinov2_detrex.cli import run_command
from dinov2_detrex.config.loading import load
from dinov2_detrex.data.image_reading import read_image
from dinov2_detrex.inference import Predictor, Selection
from dinov2_detrex.inference.packaging import make_package
from dinov2_detrex.inference.pictures import count_of
from dinov2_detrex.inference.runs import choose_weights
from dinov2_detrex.runtime import files
from dinov2_detrex.runtime.errors import UsageError, UserError

EVERYTHING = Selection(0.0)


def noise(height, width, seed=0):
    """(H, W, 3) uint8."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def saved(folder, pixels, name="x.png", **options):
    folder.mkdir(exist_ok=True)
    Image.fromarray(pixels).save(folder / name, **options)
    return folder / name


def all_of(found):
    return [list(detections) for detections in found]


def test_a_picture_in_colour_is_the_same_as_file_image_array_and_tensor(tiny_run, tmp_path):
    predictor, pixels = tiny_run.predictor, noise(50, 90)
    expected = predictor(saved(tmp_path, pixels), selection=EVERYTHING)
    assert len(expected) == 10 and len(set(expected.class_names)) > 1
    channels_first = torch.from_numpy(pixels).permute(2, 0, 1)
    with_alpha = np.dstack([pixels, np.full((50, 90), 7, np.uint8)])
    forms = [
        str(tmp_path / "x.png"),
        Image.fromarray(pixels),
        pixels,
        with_alpha,
        channels_first,
        channels_first / 255,
        pixels.astype(np.uint16) * 257,
    ]
    for form in forms:
        assert predictor(form, selection=EVERYTHING) == expected


def test_grey_and_sixteen_bit_arrays_are_what_their_files_are(tiny_run, tmp_path):
    predictor = tiny_run.predictor
    grey = noise(40, 60)[:, :, 0]
    deep = (grey.astype(np.uint16) << 8) + 77
    for pixels in (grey, deep):
        expected = predictor(saved(tmp_path, pixels), selection=EVERYTHING)
        for form in (pixels, pixels[:, :, None], torch.from_numpy(pixels)[None], torch.from_numpy(pixels)):
            assert predictor(form, selection=EVERYTHING) == expected


def test_a_turned_picture_has_its_boxes_upright_also_from_memory(tiny_run, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = saved(tmp_path, noise(40, 90), exif=exif)
    expected = tiny_run.predictor(read_image(path), selection=EVERYTHING)
    assert expected.image_hw == (90, 40)
    with Image.open(path) as image:
        assert tiny_run.predictor(image, selection=EVERYTHING) == expected
    assert tiny_run.predictor(path, selection=EVERYTHING) == expected


def test_many_pictures_come_back_in_order_in_whatever_they_are_held(tiny_run, tmp_path):
    predictor = tiny_run.predictor
    arrays = [noise(40, 60, seed) for seed in range(3)]
    paths = [saved(tmp_path / "in", pixels, f"{i}.png") for i, pixels in enumerate(arrays)]
    (tmp_path / "in" / "notes.txt").write_text("no picture")
    expected = [list(predictor(pixels, selection=EVERYTHING)) for pixels in arrays]
    forms = [arrays, np.stack(arrays), paths, tmp_path / "in", str(tmp_path / "in" / "*.png"), [paths[0], paths[1:]]]
    for form in forms:
        assert all_of(predictor(form, selection=EVERYTHING)) == expected and count_of(form) == 3
    assert all_of(predictor((pixels for pixels in arrays), selection=EVERYTHING)) == expected
    found = list(predictor.stream(tmp_path / "in", 0.0))
    assert [detections.source for detections in found] == [str(path) for path in paths]


def test_a_stream_reads_on_only_as_it_is_asked(tiny_run):
    taken = []

    def endless():
        while True:
            taken.append(1)
            yield noise(40, 60)

    stream = tiny_run.predictor.stream(endless())
    next(stream)
    next(stream)
    assert len(taken) < 12


def test_batches_of_mixed_shapes_change_no_answer(tiny_run):
    single, batched = tiny_run.predictor, Predictor.from_run(tiny_run.folder, batch_size=3)
    arrays = [noise(*hw, seed) for seed, hw in enumerate([(40, 60), (60, 40), (40, 60), (90, 50), (60, 40)] * 3)]
    found = batched(arrays, selection=EVERYTHING)
    for one, other in zip(single(arrays, selection=EVERYTHING), found, strict=True):
        assert one.class_names == other.class_names
        np.testing.assert_allclose(one.boxes_xyxy, other.boxes_xyxy, atol=1e-3)
        np.testing.assert_allclose(one.scores, other.scores, atol=1e-5)


@pytest.mark.parametrize(
    "picture, words",
    [
        (np.zeros((4, 5, 2), np.uint8), r"shape \(4, 5, 2\) is no picture"),
        (np.zeros((4, 5)), "float64 has no defined range"),
        (torch.full((3, 4, 5), 2.0), "reaches from 2 to 2, not from 0 to 1"),
        (np.zeros((0, 5), np.uint8), "no picture"),
        (7, "^7 is no picture"),
        ("absent/*.png", "no file fits the pattern absent"),
    ],
)
def test_what_is_no_picture_is_refused_in_one_line(tiny_run, picture, words):
    with pytest.raises(UserError, match=words) as caught:
        tiny_run.predictor(picture)
    assert "\n" not in str(caught.value)


def test_unreadable_pictures_are_left_out_on_request_only(tiny_run, tmp_path, caplog):
    good = saved(tmp_path, noise(40, 60), "good.png")
    (tmp_path / "bad.png").write_text("no picture")
    pictures = [tmp_path / "bad.png", good, tmp_path / "absent.png"]
    with pytest.raises(OSError, match="bad.png"):
        tiny_run.predictor(pictures)
    found = list(tiny_run.predictor.stream(pictures, skip_unreadable=True))
    assert [detections.source for detections in found] == [str(good)]
    assert "bad.png" in caplog.text and "absent.png" in caplog.text


def test_boxes_are_those_of_an_evaluation(tiny_run, sound_coco, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    document = json.loads(sound_coco.json_file.read_text())
    document["categories"] = [{"id": i, "name": name} for i, name in enumerate(["newt", "gnu", "owl"], 1)]
    sound_coco.json_file.write_text(json.dumps(document))
    arguments = ["--data", str(sound_coco.json_file), "--images", str(sound_coco.images)]
    assert run_command("evaluate", [str(tiny_run.folder), *arguments, "dataloader.test.num_workers=0"]) == 0
    judged = json.loads((tmp_path / "output/evaluation/coco_instances_results.json").read_text())
    for image in document["images"]:
        found = tiny_run.predictor(sound_coco.images / image["file_name"], score_threshold=0.0)
        expected = [row for row in judged if row["image_id"] == image["id"]]
        assert [row["bbox"] for row in found] == [row["bbox"] for row in expected] and len(found) == 10
        assert [row["score"] for row in found] == [row["score"] for row in expected]


def test_weights_come_from_a_run_a_file_a_state_dict_or_a_checkpoints_content(tiny_run):
    cfg, pixels = load(str(tiny_run.folder), []), noise(40, 60)
    expected = tiny_run.predictor(pixels, selection=EVERYTHING)
    content = files.read(tiny_run.folder / "model_final.pth")
    assert Predictor(cfg, content)(pixels, 0.0) == expected
    assert Predictor.from_run(tiny_run.folder, "final")(pixels, 0.0) == expected
    bare = Predictor(cfg, content["model"])
    assert bare.classes.names == ["0", "1", "2"]
    np.testing.assert_array_equal(bare(pixels, 0.0).boxes_xyxy, expected.boxes_xyxy)
    with pytest.raises(UserError, match="would stay random"):
        Predictor(cfg, {name: value for name, value in content["model"].items() if "neck" not in name})


@pytest.mark.parametrize("dtype, kind", [("fp32", None), ("bf16", torch.bfloat16)])
def test_a_dtype_is_that_of_autocast_and_answers_stay_near(tiny_run, dtype, kind):
    predictor = Predictor.from_run(tiny_run.folder, dtype=dtype)
    assert predictor.dtype is kind
    found = predictor(noise(40, 60), selection=EVERYTHING)
    assert found.scores.dtype == np.float32
    expected = tiny_run.predictor(noise(40, 60), selection=EVERYTHING)
    assert np.abs(found.scores - expected.scores).mean() < 0.1


@pytest.mark.parametrize(
    "options, words",
    [
        ({"dtype": "int8"}, "dtype='int8' is none of fp32, bf16, fp16 and auto"),
        ({"device": "cuda:x"}, "device=cuda:x is no device"),
        ({"batch_size": 0}, "batch_size=0"),
    ],
)
def test_options_that_cannot_be_are_one_line(tiny_run, options, words):
    with pytest.raises(UsageError, match=words):
        Predictor.from_run(tiny_run.folder, **options)


def test_the_thresholds_of_a_package_are_used_on_request(tiny_run, tmp_path):
    found = tiny_run.predictor(noise(40, 60), selection=EVERYTHING)
    split = float(np.median(found.scores))
    thresholds = {"default": 1.0, "by_class": {found.class_names[0]: split}}
    make_package(load(str(tiny_run.folder), []), choose_weights(tiny_run.folder), tmp_path / "p", thresholds=thresholds)
    predictor = Predictor.from_pretrained(tmp_path / "p")
    kept = predictor(noise(40, 60), selection="package")
    assert 0 < len(kept) < len(found) and set(kept.class_names) == {found.class_names[0]} and min(kept.scores) >= split
    assert len(predictor(noise(40, 60), 0.0)) == len(found)
    with pytest.raises(UserError, match="only a model package has thresholds"):
        tiny_run.predictor(noise(40, 60), selection="package")


@pytest.mark.slow
def test_a_compiled_backbone_answers_alike(tiny_run):
    if shutil.which("c++") is None:
        pytest.skip("torch.compile needs a C++ compiler")
    found = Predictor.from_run(tiny_run.folder, compile=True)(noise(40, 60), selection=EVERYTHING)
    expected = tiny_run.predictor(noise(40, 60), selection=EVERYTHING)
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-4)


def test_a_mapper_of_somebody_else_gets_files(tiny_run, tmp_path):
    predictor = Predictor.from_run(tiny_run.folder)
    predictor.mapper = DatasetMapper(is_train=False, augmentations=predictor.mapper.augmentation, image_format="RGB")
    path = saved(tmp_path, noise(50, 90))
    expected = tiny_run.predictor(path, selection=EVERYTHING)
    assert predictor(path, selection=EVERYTHING) == expected == predictor(noise(50, 90), selection=EVERYTHING)
    assert len(predictor(noise(50, 90), 0.0, tile=40)) >= 10
