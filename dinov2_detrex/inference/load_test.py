"""How does `dinov2-detrex serve` bear many clients at once? Latency, pictures a second and the share turned away.

Server and clients are processes of this machine and talk over loopback. Every client sends its next picture as soon as
the last one is answered, so the load is bounded by the number of clients and the seconds.
"""

import contextlib
import http.client
import io
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tabulate import tabulate

from dinov2_detrex.data.shapes import draw_image
from dinov2_detrex.inference.predictor import Predictor
from dinov2_detrex.inference.serving import BUSY
from dinov2_detrex.runtime.errors import UserError, one_line
from dinov2_detrex.runtime.extras import needed

START_UP_S = 120.0  # until the server must answer
STOP_S = 20.0
ANSWER_S = 120.0  # a client gives up
PICTURE_PX = 128  # of the drawn picture's sides
QUANTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
COMMAND = "import sys; from dinov2_detrex.cli import main; sys.exit(main())"
Answers = list[tuple[int, float]]  # HTTP status (0: no answer) and seconds of each


def report(
    detector: str, clients: Sequence[int], seconds: float, image: str | None = None, flags: Sequence[str] = ()
) -> str:
    """A Markdown table: the predictor alone, then a row for each number of clients.

    Args:
        detector: a package, a run's folder, or an exported file.
        clients: numbers of them.
        seconds: of each row.
        image: a picture's file; a drawn one without.
        flags: of `serve`.

    Raises:
        MissingPackageError: the extra `serve` is not installed.
        UserError: the picture cannot be read, or the server does not start.
    """
    needed("uvicorn", "serving", "serve")
    needed("fastapi", "serving", "serve")
    picture = read_picture(image)
    predictor = Predictor.open(detector)
    rows = [row("predictor alone", load(lambda: directly(predictor, picture), 1, seconds), seconds)]
    with serving(detector, flags) as port:
        for number in clients:
            answers = load(lambda: over_http(port, picture), number, seconds)
            rows.append(row(f"serve, {number} client{'s' * (number > 1)}", answers, seconds))
    return tabulate(rows, headers="keys", tablefmt="github", floatfmt=".3g")


def read_picture(image: str | None) -> bytes:
    """An encoded picture.

    Raises:
        UserError: the file cannot be read.
    """
    if image is None:
        file = io.BytesIO()
        draw_image(np.random.default_rng(0), PICTURE_PX)[0].save(file, "JPEG")
        return file.getvalue()
    try:
        content = Path(image).read_bytes()
        Image.open(io.BytesIO(content)).verify()
    except Exception as error:  # damaged pictures fail in any way
        raise UserError(f"{image} cannot be read as a picture: {one_line(error)}") from error
    return content


@contextlib.contextmanager
def serving(detector: str, flags: Sequence[str] = ()) -> Iterator[int]:
    """The port of a `dinov2-detrex serve` that runs within the block.

    Raises:
        UserError: it does not start.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    line = [sys.executable, "-c", COMMAND, "serve", detector, "--port", str(port), *flags]
    server = subprocess.Popen(line, stdout=subprocess.DEVNULL)
    try:
        _await_health(server, port)
        yield port
    finally:
        server.terminate()
        try:
            server.wait(STOP_S)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def _await_health(server: subprocess.Popen, port: int) -> None:
    end = time.monotonic() + START_UP_S
    while time.monotonic() < end:
        if server.poll() is not None:
            raise UserError(f"the server ended with status {server.returncode} before it answered")
        with contextlib.suppress(OSError, http.client.HTTPException):
            if ask(http.client.HTTPConnection("127.0.0.1", port, timeout=5), "GET", "/health") == 200:
                return
        time.sleep(0.1)
    raise UserError(f"the server did not answer within {START_UP_S:g} s")


def ask(connection: http.client.HTTPConnection, method: str, place: str, body: bytes | None = None) -> int:
    """The status of an answer, which is read to its end."""
    connection.request(method, place, body)
    answer = connection.getresponse()
    answer.read()
    return answer.status


def over_http(port: int, picture: bytes) -> Callable[[], int]:
    """A client: a function that sends the picture over a connection of its own and gives the status, 0 for none."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=ANSWER_S)

    def send() -> int:
        try:
            return ask(connection, "POST", "/detect", picture)
        except (OSError, http.client.HTTPException):
            connection.close()
            return 0

    return send


def directly(predictor: Predictor, picture: bytes) -> Callable[[], int]:
    """The same without a server."""

    def predict() -> int:
        predictor(Image.open(io.BytesIO(picture)))
        return 200

    return predict


def load(make_client: Callable[[], Callable[[], int]], number: int, seconds: float) -> Answers:
    """What so many clients at once got, each after a first request that does not count."""
    answers: Answers = []
    ready = threading.Barrier(number, timeout=ANSWER_S)

    def run() -> None:
        send = make_client()
        send()
        ready.wait()
        end = time.perf_counter() + seconds
        while (started := time.perf_counter()) < end:
            status = send()
            answers.append((status, time.perf_counter() - started))

    threads = [threading.Thread(target=run) for _ in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


def row(name: str, answers: Answers, seconds: float) -> dict[str, Any]:
    """Of a table; latencies are those of pictures that were detected in."""
    taken = [1e3 * elapsed for status, elapsed in answers if status == 200]
    lost = [status for status, _ in answers if status != 200]
    latency = {f"{key}, ms": np.quantile(taken, q) if taken else None for key, q in QUANTILES.items()}
    shares = {
        "turned away (503), %": 100 * lost.count(BUSY) / max(1, len(answers)),
        "other failures, %": 100 * (len(lost) - lost.count(BUSY)) / max(1, len(answers)),
    }
    return {"": name, "pictures": len(taken), "pictures a second": len(taken) / seconds, **latency, **shares}
