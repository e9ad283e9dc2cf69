"""The page shows what the predictor finds, answers wrong input with a line, and asks nothing of the network."""

import contextlib
import shutil
import socket
import urllib.request

import numpy as np
import pytest
import torch
from detectron2.modeling import Backbone
from PIL import Image

from dinov2_detrex.cli import run_command
from dinov2_detrex.inference.demo import SHOWN_PX, Demo, create_page, feature_picture, overheard, serve
from dinov2_detrex.runtime.errors import UserError

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def demo(tiny_run):
    return Demo(tiny_run.predictor, max_bytes=200_000, max_pixels=3_000_000)


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    path = tmp_path_factory.mktemp("pictures") / "new.png"
    Image.effect_noise((90, 50), 80).convert("RGB").save(path)
    return path


def test_table_and_line_say_what_the_predictor_finds(demo, picture):
    seen = demo.look(picture)
    threshold = float(seen.detections.scores[4])
    shown = demo.show(seen, threshold)
    expected = demo.predictor(picture, score_threshold=threshold)
    assert 0 < len(expected) < 10 and len(shown.rows) == len(expected)
    for (name, score, *box), found, corners in zip(shown.rows, expected, expected.boxes_xyxy):
        assert name == found["category_name"] and score == pytest.approx(found["score"], abs=1e-3)
        assert box == pytest.approx(corners.tolist(), abs=0.06)
    assert shown.line == f"{len(expected)} of 10 detections, in 90 x 50 pixels"
    assert shown.features.size == shown.drawing.size > (90, 50)  # a small picture is enlarged


def test_classes_and_threshold_are_chosen_without_another_look(demo, picture):
    seen = demo.look(picture)
    names = {row[0] for row in demo.show(seen, 0.0).rows}
    assert len(names) > 1
    for name in names:
        assert {row[0] for row in demo.show(seen, 0.0, [name]).rows} == {name}
    assert demo.show(seen, 1.0).rows == []


def test_boxes_are_drawn_where_they_are_also_on_a_smaller_picture(demo, tmp_path):
    Image.new("RGB", (2000, 1000)).save(tmp_path / "large.png")
    seen = demo.look(tmp_path / "large.png")
    shown = demo.show(seen, 0.0)
    assert shown.drawing.size == seen.image.size == seen.features.size == (SHOWN_PX, SHOWN_PX // 2)
    assert seen.detections.image_hw == (1000, 2000)
    drawn = np.argwhere(np.asarray(shown.drawing).any(-1))  # labels keep inside, and lines are a few pixels wide
    boxes = seen.detections.boxes_xyxy * SHOWN_PX / 2000
    assert drawn[:, 1].max() >= min(boxes[:, 2].max(), SHOWN_PX - 1) - 2


def test_the_features_are_the_innermost_backbones_without_the_padding(tiny_run):
    model = tiny_run.predictor.model
    vit = [module for module in model.modules() if isinstance(module, Backbone)][-1]
    record = {"image": torch.randint(0, 256, (3, 70, 100), dtype=torch.uint8)}
    with torch.inference_mode():
        with overheard(model) as heard:
            model([record])
        (expected,) = vit(model.preprocess([record]).tensor).values()
    stride = vit.output_shape()["p-1"].stride
    rows, columns = -(-70 // stride), -(-100 // stride)
    assert (rows, columns) != expected.shape[2:]
    assert torch.allclose(heard.image_map, expected[0, :, :rows, :columns], atol=1e-5)
    assert not vit._forward_hooks and not model._forward_pre_hooks


def test_cells_that_are_alike_have_one_colour():
    image_map = torch.randn(8, 1, 1).expand(8, 4, 6).clone()
    image_map[:, :, 3:] = torch.randn(8, 1, 1)
    picture = np.asarray(feature_picture(image_map, (60, 40)))
    assert (picture[:, :30] == picture[0, 0]).all() and (picture[:, 30:] == picture[0, 59]).all()
    assert (picture[0, 0] != picture[0, 59]).any()
    assert feature_picture(torch.randn(8, 1, 1), (5, 4)).size == (5, 4)


def write_wrong(folder, kind):
    path = folder / f"{kind}.jpg"
    if kind == "text":
        path.write_text("no picture")
    elif kind == "empty":
        path.touch()
    elif kind == "cut":
        Image.effect_noise((90, 50), 80).save(path)
        path.write_bytes(path.read_bytes()[:-900])
    elif kind == "heavy":
        path.write_bytes(b"0" * 200_001)
    else:
        Image.new("1", (3000, 1001) if kind == "large" else (20_000, 20_000)).save(path, "PNG")
    return path


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(
    "kind, words",
    [
        ("text", "no picture"),
        ("empty", "no picture"),
        ("cut", "cannot be read"),
        ("heavy", "at most 200000 are taken"),
        ("large", "3003000 pixels, at most 3000000 are taken"),
        ("bomb", "too large"),
    ],
)
def test_what_is_no_picture_or_too_large_gets_a_line(demo, tmp_path, kind, words):
    path = write_wrong(tmp_path, kind)
    with pytest.raises(UserError):
        demo.look(path)
    shown = demo.show(demo.try_look(path), 0.3)
    assert words in shown.line and shown.line.startswith(path.name) and str(tmp_path) not in shown.line
    assert shown.drawing is None and shown.rows == ()


def test_weights_are_chosen_of_a_run_alone(tmp_path, capsys):
    pytest.importorskip("gradio", reason="needs the extra `demo`")
    assert run_command("demo", [str(tmp_path / "some.onnx"), "--weights", "best"]) == 2
    assert "no run's folder" in capsys.readouterr().err


@contextlib.contextmanager
def open_page(demo, examples):
    """The address of the page while it is served."""
    page = create_page(demo, "newts", examples)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    serve(page, demo, "127.0.0.1", port, wait=False)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        page.close()


def test_the_page_names_no_address_of_the_network_and_counts_nobody(demo, picture):
    gradio = pytest.importorskip("gradio", reason="needs the extra `demo`")
    with open_page(demo, [picture]) as address:
        html = urllib.request.urlopen(address, timeout=60).read().decode()
        style = urllib.request.urlopen(f"{address}/theme.css", timeout=60).read().decode()
    assert "newts" in html and "fonts.googleapis" not in html + style and "fonts.gstatic" not in html + style
    assert not gradio.analytics.analytics_enabled()


@pytest.mark.slow
def test_in_a_browser_a_dropped_picture_and_an_example_are_answered_and_a_text_is_refused(demo, picture, tmp_path):
    pytest.importorskip("gradio", reason="needs the extra `demo`")
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    if CHROMIUM is None:
        pytest.skip("needs Chromium")
    text = tmp_path / "letter.jpg"
    text.write_text("no picture")
    asked = []
    with open_page(demo, [picture]) as address, playwright.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1400, "height": 900})
        page.set_default_timeout(60_000)
        page.on("request", lambda request: asked.append(request.url))
        page.goto(address)
        page.locator("input[type=file]").first.set_input_files(picture)
        page.get_by_text("of 10 detections, in 90 x 50 pixels").wait_for()
        assert page.get_by_role("img").count() >= 2
        page.get_by_label("Remove this file").or_(page.get_by_label("Clear")).first.click()
        page.locator("input[type=file]").first.set_input_files(text)
        page.get_by_text("letter.jpg is no picture").wait_for()
        page.locator(".gallery-item").first.click()
        page.get_by_text("of 10 detections, in 90 x 50 pixels").wait_for()
        browser.close()
    foreign = [url for url in asked if not url.startswith((address, "data:", "blob:"))]
    assert foreign == []
