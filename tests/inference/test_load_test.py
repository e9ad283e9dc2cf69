"""The load test counts what clients were answered, ends the server that it started, and says what went wrong."""

import http.client
import threading

import pytest
from made_package import make_package
from PIL import Image

from dinov2_detrex.cli import run_command
from dinov2_detrex.inference.load_test import load, over_http, read_picture, row, serving
from dinov2_detrex.runtime.errors import UserError


def test_shares_and_quantiles_are_of_the_answers():
    answers = [(200, 0.1)] * 6 + [(503, 9.0)] * 3 + [(0, 9.0)]
    found = row("served", answers, seconds=2.0)
    assert (found["pictures"], found["pictures a second"]) == (6, 3.0)
    assert found["p50, ms"] == found["p99, ms"] == pytest.approx(100)
    assert (found["turned away (503), %"], found["other failures, %"]) == (30, 10)


def test_where_nothing_was_answered_there_is_no_latency():
    assert row("served", [(503, 0.1)], seconds=1.0)["p95, ms"] is None


def test_all_clients_send_at_once_and_their_first_requests_do_not_count():
    together = threading.Barrier(3)  # breaks, and fails the test, where they come one by one
    sent = []

    def client():
        def send():
            together.wait(10)
            sent.append(200)
            return 200

        return send

    answers = load(client, 3, seconds=0.0)
    assert answers == [] and sent == [200] * 3


def test_a_client_whom_nobody_answers_goes_on():
    with pytest.raises(OSError):
        http.client.HTTPConnection("127.0.0.1", 9, timeout=1).connect()
    client = over_http(9, b"picture")
    assert [client(), client()] == [0, 0]


def test_what_is_no_picture_is_one_line(tmp_path):
    (tmp_path / "text.png").write_text("no picture")
    for name in ("absent.png", "text.png"):
        with pytest.raises(UserError, match=f"{name} cannot be read"):
            read_picture(str(tmp_path / name))


def test_a_server_that_does_not_start_is_one_line(tmp_path):
    pytest.importorskip("uvicorn", reason="needs the extra `serve`")
    with pytest.raises(UserError, match="ended with status 1"), serving(str(tmp_path / "absent")):
        pass


@pytest.mark.slow
def test_a_package_is_served_to_several_clients_and_a_full_queue_turns_some_away(tmp_path, capsys):
    for name in ("uvicorn", "fastapi"):
        pytest.importorskip(name, reason="needs the extra `serve`")
    package, picture = make_package(tmp_path)
    Image.open(picture).save(tmp_path / "photo.jpg")
    flags = ["--clients", "1", "8", "--seconds", "2", "--max-waiting", "1", "--max-batch", "1"]
    words = [str(package), "--image", str(tmp_path / "photo.jpg"), *flags]
    assert run_command("benchmark served", words) == 0
    lines = [line.strip("| ").split("|") for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    rows = {cells[0].strip(): [float(cell) for cell in cells[1:]] for cells in lines[2:]}
    assert list(rows) == ["predictor alone", "serve, 1 client", "serve, 8 clients"]
    assert all(figures[0] > 0 and figures[-1] == 0 for figures in rows.values())
    assert rows["serve, 1 client"][-2] == 0 < rows["serve, 8 clients"][-2]
