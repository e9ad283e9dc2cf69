"""How does a detector answer over HTTP? A small app for trying it: POST an image, get JSON. No server for production.

Requests that wait together go through the model together. What may be sent and how long it may take is limited, and
wrong input is answered with a line.
"""

import asyncio
import contextlib
import io
import os
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from detectron2.structures import BoxMode
from PIL import Image

from dinov2_detrex.inference.predictor import Predictor
from dinov2_detrex.runtime.errors import one_line
from dinov2_detrex.runtime.extras import needed

BUSY, TOO_LARGE, TIMED_OUT, UNREADABLE = 503, 413, 504, 422


@dataclass(frozen=True)
class Limits:
    """What the app takes.

    Attributes:
        max_bytes: of a request.
        max_pixels: of a picture, before it is decoded.
        max_waiting: requests that wait for the model; further ones are turned away.
        timeout_s: until a request is answered.
        max_batch: pictures that go through the model together.
    """

    max_bytes: int = 20_000_000
    max_pixels: int = 50_000_000
    max_waiting: int = 32
    timeout_s: float = 60.0
    max_batch: int = 4


class Refused(Exception):
    """A request that is not answered: HTTP status and one line."""

    def __init__(self, status: int, line: str):
        super().__init__(line)
        self.status = status


@dataclass
class Figures:
    """What happened since the start, for /metrics."""

    responses: Counter = field(default_factory=Counter)  # by HTTP status
    batches: int = 0
    pictures: int = 0
    seconds: float = 0.0  # of the model

    def text(self, waiting: int) -> str:
        """In Prometheus' text format."""
        lines = [f'dinov2_detrex_responses_total{{status="{s}"}} {n}' for s, n in sorted(self.responses.items())]
        lines += [
            f"dinov2_detrex_batches_total {self.batches}",
            f"dinov2_detrex_pictures_total {self.pictures}",
            f"dinov2_detrex_model_seconds_total {self.seconds:.6f}",
            f"dinov2_detrex_waiting {waiting}",
        ]
        return "\n".join(lines) + "\n"


class Batcher:
    """Gathers what waits, runs the model on it in a thread of its own, and hands out the answers."""

    def __init__(self, predictor: Predictor, limits: Limits, figures: Figures):
        self.predictor, self.limits, self.figures = predictor, limits, figures
        self.waiting: asyncio.Queue = asyncio.Queue()

    async def answer(self, record: dict[str, Any]) -> Any:
        """The `Instances` of a record.

        Raises:
            Refused: too many wait, or it takes too long.
        """
        if self.waiting.qsize() >= self.limits.max_waiting:
            raise Refused(BUSY, f"{self.limits.max_waiting} requests are waiting already; try again later")
        done = asyncio.get_running_loop().create_future()
        self.waiting.put_nowait((record, done))
        try:
            return await asyncio.wait_for(done, self.limits.timeout_s)
        except asyncio.TimeoutError as error:
            raise Refused(TIMED_OUT, f"no answer within {self.limits.timeout_s:g} s") from error

    async def run(self) -> None:
        """Serve until cancelled; requests that were given up are left out."""
        while True:
            batch = [await self.waiting.get()]
            while len(batch) < self.limits.max_batch and not self.waiting.empty():
                batch.append(self.waiting.get_nowait())
            batch = [(record, done) for record, done in batch if not done.done()]
            if batch:
                await self._serve(batch)

    async def _serve(self, batch: list[tuple[dict[str, Any], asyncio.Future]]) -> None:
        started = time.perf_counter()
        try:
            found = await asyncio.to_thread(self.predictor.detect, [record for record, _ in batch])
        except Exception as error:  # one bad batch must not end the app
            found = [Refused(500, one_line(error))] * len(batch)
        self.figures.batches, self.figures.pictures = self.figures.batches + 1, self.figures.pictures + len(batch)
        self.figures.seconds += time.perf_counter() - started
        for (_, done), result in zip(batch, found):
            if not done.done():
                done.set_exception(result) if isinstance(result, Exception) else done.set_result(result)


def read_record(predictor: Predictor, body: bytes, limits: Limits) -> dict[str, Any]:
    """The detector's record of an encoded picture.

    Raises:
        Refused: it is no picture, or has too many pixels.
    """
    try:
        with Image.open(io.BytesIO(body)) as image:
            num_pixels = image.width * image.height
    except Exception as error:  # damaged pictures fail in any way
        raise Refused(UNREADABLE, f"this is no picture: {one_line(error)}") from error
    if num_pixels > limits.max_pixels:
        raise Refused(TOO_LARGE, f"the picture has {num_pixels} pixels, at most {limits.max_pixels} are taken")
    descriptor, path = tempfile.mkstemp()
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(body)
        return predictor.mapper({"file_name": path})
    except Exception as error:
        raise Refused(UNREADABLE, one_line(error).replace(path, "the picture")) from error
    finally:
        os.unlink(path)


def as_json(predictor: Predictor, instances: Any, threshold: float) -> list[dict[str, Any]]:
    """Detections as `Predictor` gives them, the best first."""
    instances = instances[instances.scores >= threshold]
    instances = instances[instances.scores.argsort(descending=True)]
    boxes = BoxMode.convert(instances.pred_boxes.tensor, BoxMode.XYXY_ABS, BoxMode.XYWH_ABS).tolist()
    names, ids = predictor.classes.names, predictor.classes.category_ids
    return [
        {"category_id": ids[label], "category_name": names[label], "score": score, "bbox": box}
        for label, score, box in zip(instances.pred_classes.tolist(), instances.scores.tolist(), boxes)
    ]


async def read_body(request: Any, limits: Limits) -> bytes:
    """The request's body.

    Raises:
        Refused: it is empty or too large; a large one is not read to its end.
    """
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > limits.max_bytes:
            raise Refused(TOO_LARGE, f"at most {limits.max_bytes} bytes are taken")
    if not body:
        raise Refused(400, "the body is empty; POST an encoded picture")
    return bytes(body)


def threshold_of(text: str | None, default: float) -> float:
    """The score of the query.

    Raises:
        Refused: it is no number from 0 to 1.
    """
    try:
        value = default if text is None else float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise Refused(400, f"score_threshold={text!r} must be a number from 0 to 1")
    return value


def create_app(predictor: Predictor, limits: Limits, name: str = "", default_threshold: float = 0.3) -> Any:
    """The app: POST /detect, GET /health and GET /metrics.

    Args:
        predictor: the detector.
        limits: what is taken.
        name: of the detector, for /health.
        default_threshold: score below which nothing is answered, unless the query's `score_threshold` says otherwise.

    Raises:
        MissingPackageError: FastAPI is not installed.
    """
    fastapi = needed("fastapi", "serving", "serve")
    responses = needed("fastapi.responses", "serving", "serve")
    figures = Figures()
    batcher = Batcher(predictor, limits, figures)

    async def lifespan(app: Any):
        serving = asyncio.create_task(batcher.run())
        yield
        serving.cancel()

    app = fastapi.FastAPI(title=name or "detector", lifespan=contextlib.asynccontextmanager(lifespan))

    async def health() -> Any:
        return responses.JSONResponse({"status": "ok", "name": name, "classes": predictor.classes.names})

    async def metrics() -> Any:
        return responses.PlainTextResponse(figures.text(batcher.waiting.qsize()))

    async def detections(request: Any) -> Any:
        try:
            threshold = threshold_of(request.query_params.get("score_threshold"), default_threshold)
            record = await asyncio.to_thread(read_record, predictor, await read_body(request, limits), limits)
            found = as_json(predictor, await batcher.answer(record), threshold)
            status, content = 200, {"width": record["width"], "height": record["height"], "detections": found}
        except Refused as error:
            status, content = error.status, {"error": str(error)}
        figures.responses[status] += 1
        return responses.JSONResponse(content, status)

    app.router.add_route("/detect", detections, methods=["POST"])
    app.add_api_route("/health", health)
    app.add_api_route("/metrics", metrics)
    return app
