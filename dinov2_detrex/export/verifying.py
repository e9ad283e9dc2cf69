"""Does an exported file answer as the detector does? It is run on pictures, and its boxes are matched one to one."""

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dinov2_detrex.detector import DINO
from dinov2_detrex.detector.box_ops import box_cxcywh_to_xyxy
from dinov2_detrex.export.graph import up_to_multiple
from dinov2_detrex.export.matching import Answer, Comparison, Tolerance, compare
from dinov2_detrex.export.shapes import GraphShapes
from dinov2_detrex.inference.exported import Arrays, Runtime, canvas_for, load_runtime, network_inputs
from dinov2_detrex.runtime.errors import UserError
from dinov2_detrex.runtime.extras import needed

TOLERANCES = {"fp32": Tolerance(0.05, 1e-3), "fp16": Tolerance(2.0, 0.02), "int8": Tolerance(8.0, 0.1)}
LATENCY_RUNS = 5
TRIED_BATCH = 3  # images, of a graph that takes any number
ROUNDING, NUM_NOISY = 1e-5, 3  # of normalised pixels, which are about 1


@dataclass(frozen=True)
class Verdict:
    """What came of running a file beside the detector.

    Attributes:
        comparison: of the boxes.
        tolerance: what they were matched by.
        latency_s: medians by runtime, of one picture, taken in turn.
        start_up_s: to load the file.
        size_mb: of the file with its weights.
        ap: of the detector and of the file on a data set, 0..100; {} where none was asked for.
    """

    comparison: Comparison
    tolerance: Tolerance
    latency_s: dict[str, float]
    start_up_s: float
    size_mb: float
    ap: dict[str, float] = field(default_factory=dict)

    @property
    def ap_loss(self) -> float:
        """How much less the file has, in points of 100; NaN where there is nothing to measure counts as no loss."""
        loss = self.ap.get("PyTorch", 0.0) - self.ap.get("file", 0.0)
        return 0.0 if math.isnan(loss) else loss

    def lines(self) -> list[str]:
        """For people."""
        torch_s, file_s = self.latency_s["PyTorch"], self.latency_s["file"]
        return [
            self._matching(),
            f"one picture: PyTorch {torch_s:.3f} s, this file {file_s:.3f} s ({torch_s / file_s:.2f} times as fast); "
            f"loaded in {self.start_up_s:.1f} s; {self.size_mb:.0f} MB",
            *([f"AP: PyTorch {self.ap['PyTorch']:.2f}, this file {self.ap['file']:.2f}"] if self.ap else []),
        ]

    def _matching(self) -> str:
        c, apart = self.comparison, self.tolerance
        unmatched = f"{c.num_expected} boxes expected, {c.num_unmatched} unmatched"
        if c.num_unmatched:
            unmatched += " of PyTorch's and the file's, "
            unmatched += f"more than {apart.shift_px:g} px or {apart.score:g} of the score apart"
        unstable = f"; {c.num_unstable} boxes depend on rounding in PyTorch itself" if c.num_unstable else ""
        gaps = f"{c.largest_shift_px:.4f} px, largest difference of scores {c.largest_score_gap:.2g}"
        return f"{unmatched}; of the matched, largest shift {gaps}{unstable}"


def verify(path: Path, graph: dict[str, Any], model: DINO, images: Sequence[Tensor], tolerance: Tolerance) -> Verdict:
    """Run a file and the detector on the same pixels.

    Args:
        path: of the file.
        graph: what it takes, see `source.describe`.
        model: the detector, in evaluation mode on the CPU.
        images: (3, h, w), uint8, RGB.
        tolerance: what counts as the same detection.

    Raises:
        UserError: it cannot be run.
    """
    started = time.perf_counter()
    runtime = load_runtime(path, torch.get_num_threads())
    start_up = time.perf_counter() - started
    judge = RawJudge(runtime, graph, model) if graph["raw"] else Judge(runtime, graph, model)
    images = [judge.fitting(image) for image in images]
    batch = graph["batch"] or TRIED_BATCH
    found = [judge.found(image, batch) for image in images]
    expected = [judge.expected(image) for image in images]
    comparison = compare(found, expected, tolerance)
    if comparison.num_unmatched and graph["dtype"] == "fp32":  # elsewhere more than rounding moves boxes
        comparison = compare(found, expected, tolerance, [judge.noisy(image) for image in images])
    latency = medians({"PyTorch": lambda: judge.expected(images[0]), "file": lambda: judge.found(images[0])})
    return Verdict(comparison, tolerance, latency, start_up, size_mb(path))


class Judge:
    """Answers of a graph with its post-processing, and of the detector, to one picture."""

    def __init__(self, runtime: Runtime, graph: dict[str, Any], model: DINO):
        self.runtime, self.graph, self.model = runtime, graph, model

    def fitting(self, image: Tensor) -> Tensor:
        """The part of an image that the graph can take."""
        height, width = (self.graph["height"], self.graph["width"])
        largest = self.graph["largest"]
        return image[:, : height or largest, : width or largest]

    def canvas_hw(self, image: Tensor) -> tuple[int, int]:
        return canvas_for(self.graph, image.shape[1:])

    def found(self, image: Tensor, batch: int = 1) -> Answer:
        """Of the graph, to the last image of a batch whose others are its mirror image."""
        images = beside_mirrored(image, self.graph["batch"] or batch)
        outputs = self.runtime.run(network_inputs(images, self.canvas_hw(image), len(images)))
        return answer(*(outputs[name][-1] for name in ("boxes", "scores", "labels")))

    def expected(self, image: Tensor) -> Answer:
        """Of the detector, on the same canvas: a ViT sees the padding too."""
        return self.detector(self.pixels(image), image)

    def noisy(self, image: Tensor) -> list[Answer]:
        """Further answers of the detector, to the same pixels with noise of the size of rounding."""
        generator = torch.Generator().manual_seed(0)
        pixels = self.pixels(image)
        noise = [torch.randn(pixels.shape, generator=generator) * ROUNDING for _ in range(NUM_NOISY)]
        return [self.detector(pixels + one * (pixels != 0), image) for one in noise]

    def pixels(self, image: Tensor) -> Tensor:
        """(3, H, W) float32, what the network takes."""
        canvas_hw = [up_to_multiple(side, self.graph["multiple"]) for side in self.canvas_hw(image)]
        return normalised(self.model, image, canvas_hw)

    @torch.inference_mode()
    def detector(self, pixels: Tensor, image: Tensor) -> Answer:
        """The detector's answer to pixels (3, H, W), of which the image is a part."""
        size_hw = (image.shape[1], image.shape[2])
        outputs = self.model.predict(pixels[None], [size_hw])
        instances = self.model.postprocess(outputs, [size_hw], [{}])[0]["instances"]
        fields = instances.pred_boxes.tensor, instances.scores, instances.pred_classes
        return answer(*(field.numpy() for field in fields))


class RawJudge(Judge):
    """The same of the network alone: every query with its best class."""

    def fitting(self, image: Tensor) -> Tensor:
        """A normalised image of a size that the graph takes, (3, H, W) float32, filled up with zeros."""
        image = super().fitting(image)
        return normalised(self.model, image, self.canvas_hw(image))

    def found(self, image: Tensor, batch: int = 1) -> Answer:
        images = torch.stack(beside_mirrored(image, self.graph["batch"] or batch))
        outputs = self.runtime.run(raw_inputs(self.runtime, images.numpy()))
        logits, boxes = raw_outputs(outputs)
        return self._answer(torch.from_numpy(logits[-1]), torch.from_numpy(boxes[-1]), image)

    def pixels(self, image: Tensor) -> Tensor:
        return image

    @torch.inference_mode()
    def detector(self, pixels: Tensor, image: Tensor) -> Answer:
        outputs = self.model.predict(pixels[None])
        return self._answer(outputs["pred_logits"][0], outputs["pred_boxes"][0], image)

    def _answer(self, logits: Tensor, boxes: Tensor, image: Tensor) -> Answer:
        scores, labels = self.model.probabilities(logits).max(-1)
        height, width = image.shape[1:]
        pixels = box_cxcywh_to_xyxy(boxes) * torch.tensor([width, height, width, height])
        return answer(pixels.numpy(), scores.numpy(), labels.numpy())


def beside_mirrored(image: Tensor, count: int) -> list[Tensor]:
    """As many images (C, h, w), the last of which is this one: an answer that depends on the others shows."""
    return [image.flip(-1)] * (count - 1) + [image]


def normalised(model: DINO, image: Tensor, canvas_hw: Sequence[int]) -> Tensor:
    """(3, H, W) float32: an RGB image as the network takes it, zero beside it."""
    pixels = image.flip(0) if model.input_format == "BGR" else image
    canvas = torch.zeros(3, *canvas_hw)
    canvas[:, : image.shape[1], : image.shape[2]] = (pixels - model.pixel_mean) / model.pixel_std
    return canvas


def answer(boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray) -> Answer:
    """Without the entries that are none."""
    keep = scores > 0
    return Answer(boxes[keep], scores[keep], labels[keep])


def raw_inputs(runtime: Runtime, images: np.ndarray) -> Arrays:
    """By the name that the file has for its one input."""
    return {runtime.input_names[0]: np.ascontiguousarray(images)}


def raw_outputs(outputs: Arrays) -> tuple[np.ndarray, np.ndarray]:
    """Logits (B, Q, K) and boxes (B, Q, 4), whatever a file calls them.

    Raises:
        UserError: it has no such outputs.
    """
    if "pred_logits" in outputs and "pred_boxes" in outputs:
        return outputs["pred_logits"], outputs["pred_boxes"]
    values = list(outputs.values())
    boxes = [value for value in values if value.ndim == 3 and value.shape[-1] == 4]
    others = [value for value in values if value.ndim == 3 and value.shape[-1] != 4]
    if len(boxes) != 1 or len(others) != 1:
        shapes = ", ".join(f"{name} {value.shape}" for name, value in outputs.items())
        raise UserError(f"the file's outputs are not logits (B, Q, K) and boxes (B, Q, 4): {shapes}")
    return others[0], boxes[0]


def guessed_graph(path: Path, model: DINO) -> dict[str, Any]:
    """What a file takes that was made elsewhere: the network alone, of the sizes that its input says.

    Raises:
        UserError: it has not one input (B, 3, H, W).
    """
    if path.suffix != ".onnx":
        raise UserError(f"{path} does not say what it takes; of files made elsewhere ONNX alone can be verified")
    inputs = needed("onnxruntime", f"running {path}", "export").InferenceSession(path).get_inputs()
    shape = inputs[0].shape
    batch, channels, height, width = (side if isinstance(side, int) else None for side in (*shape, *[0] * 4)[:4])
    if len(inputs) != 1 or len(shape) != 4 or channels != 3 or inputs[0].type != "tensor(float)":
        found = ", ".join(f"{value.name} {value.shape} {value.type}" for value in inputs)
        raise UserError(f"{path} takes {found}; normalised images (B, 3, H, W) in float32 alone can be verified")
    shapes = GraphShapes.of(model, None, batch, raw=True)
    return shapes.describe("fp32") | {"height": height, "width": width}


def medians(runs: dict[str, Callable[[], Any]], count: int = LATENCY_RUNS) -> dict[str, float]:
    """Median seconds of each, taken in turn so that a busy machine is busy for all."""
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(count):
        for name, run in runs.items():
            started = time.perf_counter()
            run()
            taken[name].append(time.perf_counter() - started)
    return {name: statistics.median(values) for name, values in taken.items()}


def size_mb(path: Path) -> float:
    """Of a file and, of OpenVINO's, its weights, in 10^6 bytes."""
    beside = path.with_suffix(".bin") if path.suffix == ".xml" else path.with_name(f"{path.name}.data")
    return sum(part.stat().st_size for part in (path, beside) if part.is_file()) / 1e6
