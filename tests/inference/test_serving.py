"""The app answers as the predictor does, turns wrong input away with a line, and keeps its limits."""

import io
import json
import socket
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from PIL import Image
from tiny_custom import scoring_detector

from dinov2_detrex.inference import Predictor
from dinov2_detrex.inference.serving import Limits, create_app, read_record
from dinov2_detrex.training import checkpoint

uvicorn = pytest.importorskip("uvicorn", reason="needs the extra `serve`")
pytest.importorskip("fastapi", reason="needs the extra `serve`")

LIMITS = Limits(max_bytes=200_000, max_pixels=40_000, max_waiting=50, timeout_s=60)


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """(address, predictor, picture as PNG) of an app that runs in a thread."""
    folder = tmp_path_factory.mktemp("served")
    cfg, model = scoring_detector()
    checkpoint.write(folder / "model.pth", {"model": model.state_dict()})
    predictor = Predictor(cfg, folder / "model.pth")
    picture = folder / "new.png"
    Image.effect_noise((90, 50), 80).convert("RGB").save(picture)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(create_app(predictor, LIMITS, "newts"), port=port, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    yield f"http://127.0.0.1:{port}", predictor, picture
    server.should_exit = True
    thread.join(20)


def ask(address, body=None):
    """Status and content of an answer."""
    try:
        with urllib.request.urlopen(urllib.request.Request(address, body), timeout=60) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_it_answers_as_the_predictor_does(served):
    address, predictor, picture = served
    status, content = ask(f"{address}/detect?score_threshold=0", picture.read_bytes())
    found = json.loads(content)
    assert status == 200 and (found["width"], found["height"]) == (90, 50)
    expected = predictor(picture, score_threshold=0.0)
    assert len(found["detections"]) == len(expected) > 0
    for one, other in zip(found["detections"], expected):
        assert one["category_name"] == other["category_name"]
        assert one["bbox"] == pytest.approx(other["bbox"], abs=1e-3)


def test_pictures_of_several_sizes_that_wait_together_get_the_answers_that_each_gets_alone(served):
    _, predictor, _ = served
    records = [read_record(predictor, noise(size), LIMITS) for size in ((60, 60), (180, 120), (60, 60))]
    alone = [predictor.detect([record])[0] for record in records]
    for one, other in zip(predictor.detect(records), alone, strict=True):
        torch.testing.assert_close(one.scores, other.scores, rtol=0, atol=1e-5)
        torch.testing.assert_close(one.pred_boxes.tensor, other.pred_boxes.tensor, rtol=0, atol=1e-2)


def noise(size):
    file = io.BytesIO()
    Image.effect_noise(size, 80).save(file, "JPEG")
    return file.getvalue()


@pytest.mark.parametrize(
    "query, body, status, words",
    [
        ("", b"no picture", 422, "no picture"),
        ("", b"", 400, "empty"),
        ("", noise((90, 50))[:300], 422, "no picture"),
        ("", noise((90, 50))[:-900], 422, "the picture"),
        ("?score_threshold=2", noise((90, 50)), 400, "from 0 to 1"),
        ("?score_threshold=x", noise((90, 50)), 400, "from 0 to 1"),
        ("", noise((300, 300)), 413, "pixels"),
        ("", b"0" * 200_001, 413, "bytes"),
    ],
)
def test_wrong_input_gets_a_line(served, query, body, status, words):
    found, content = ask(f"{served[0]}/detect{query}", body)
    assert found == status and words in json.loads(content)["error"]


def test_many_at_once_are_all_answered_and_counted(served):
    address, _, picture = served
    body = picture.read_bytes()
    with ThreadPoolExecutor(12) as clients:
        answers = list(clients.map(lambda _: ask(f"{address}/detect?score_threshold=0", body), range(24)))
    assert [status for status, _ in answers] == [200] * 24
    boxes = [[d["bbox"] for d in json.loads(content)["detections"]] for _, content in answers]
    for found in boxes:  # the batch that a picture was in shows in the last digits alone
        assert torch.tensor(found).allclose(torch.tensor(boxes[0]), atol=1e-3)
    status, text = ask(f"{address}/metrics")
    figures = dict(line.rsplit(" ", 1) for line in text.splitlines())
    assert status == 200 and int(figures['dinov2_detrex_responses_total{status="200"}']) >= 24
    assert int(figures["dinov2_detrex_batches_total"]) < int(figures["dinov2_detrex_pictures_total"])
    assert json.loads(ask(f"{address}/health")[1])["status"] == "ok"
