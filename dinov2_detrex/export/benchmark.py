"""How do exported files compare with PyTorch on this machine? Time, start-up, size and the largest difference of each.

All take the same picture in turn, so that a busy moment hits all of them.
"""

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import instantiate
from PIL import Image
from tabulate import tabulate
from torch import Tensor

from dinov2_detrex.config.loading import load
from dinov2_detrex.config.pretrained import without_pretrained
from dinov2_detrex.data.image_reading import open_upright
from dinov2_detrex.data.shapes import draw_image
from dinov2_detrex.detector import DINO
from dinov2_detrex.export.bags import attention_for
from dinov2_detrex.export.graph import DetectionGraph, exportable
from dinov2_detrex.export.matching import Answer, Tolerance, compare
from dinov2_detrex.export.openvino_file import write_openvino
from dinov2_detrex.export.options import ExportOptions
from dinov2_detrex.export.precision import precise_modules, precise_values
from dinov2_detrex.export.shapes import GraphShapes
from dinov2_detrex.export.source import open_source, picture_files
from dinov2_detrex.export.verifying import Judge, medians, size_mb
from dinov2_detrex.export.writing import NAMED, calibration_inputs, write
from dinov2_detrex.inference.exported import OnnxRuntime, OpenVino
from dinov2_detrex.runtime.errors import UserError, building
from dinov2_detrex.runtime.extras import needed

NUM_DRAWN = 8  # pictures, where none are given
WIDE = Tolerance(shift_px=16.0, score=0.2)  # what is farther away is another detection
FIRST = "PyTorch fp32"
METADATA = '{"format": 1}'  # of files that live for a minute


@dataclass(frozen=True)
class Candidate:
    """A way to run the detector.

    Attributes:
        name: e.g. "OpenVINO int8".
        answer: to a picture (3, h, w).
        start_up_s: to build or load it.
        size_mb: of its file, or of the weights.
    """

    name: str
    answer: Callable[[Tensor], Answer]
    start_up_s: float
    size_mb: float


def report(
    config: str,
    overrides: Sequence[str],
    size_hw: tuple[int, int],
    repeats: int,
    weights: str = "",
    given: Sequence[str] = (),
) -> str:
    """A Markdown table with a row for each way.

    Args:
        config: a run or package, or with random weights a recipe.
        overrides: of the config.
        size_hw: height and width of the graph's images in pixels.
        repeats: of every timing; the median counts.
        weights: see `source.open_source`.
        given: pictures, or folders of such, to compare on and to take int8's ranges from; drawn ones without.

    Raises:
        UserError: the detector cannot be exported.
        MissingPackageError: a runtime is not installed.
    """
    started = time.perf_counter()
    model = detector(config, overrides, weights)
    start_up = time.perf_counter() - started
    images = pictures_of_size(given, size_hw)
    shapes = GraphShapes.of(model, size_hw, 1)
    with tempfile.TemporaryDirectory() as folder:
        write_files(model, shapes, Path(folder), images)
        return table(exported(model, shapes, Path(folder), start_up), images, repeats)


def detector(config: str, overrides: Sequence[str], weights: str) -> DINO:
    """In evaluation mode on the CPU; of a recipe, by name or as a file, without weights a random one.

    Raises:
        UserError: it is no DINO.
    """
    if weights or (Path(config).exists() and Path(config).suffix != ".py"):
        return open_source(config, overrides, weights).model
    torch.manual_seed(0)
    with building("model"):
        model: Any = instantiate(without_pretrained(load(config, [*overrides, "train.device=cpu"])).model)
    if not isinstance(model, DINO):
        raise UserError(f"{config} is a {type(model).__name__}; of the detectors DINO alone can be exported")
    return model.eval()


def pictures_of_size(given: Sequence[str], size_hw: tuple[int, int]) -> list[Tensor]:
    """Images (3, H, W), uint8, RGB, of exactly that size."""
    files = [path for place in given for path in picture_files(Path(place))]
    pictures = [open_upright(str(path)) for path in files]
    if not pictures:
        pictures = [draw_image(np.random.default_rng(seed), max(size_hw))[0] for seed in range(NUM_DRAWN)]
    height, width = size_hw
    resized = [picture.resize((width, height), Image.Resampling.BILINEAR) for picture in pictures]
    return [torch.from_numpy(np.array(picture)).permute(2, 0, 1) for picture in resized]


def write_files(model: DINO, shapes: GraphShapes, folder: Path, images: Sequence[Tensor]) -> None:
    """fp32.onnx, fp32.xml and int8.xml."""
    onnx = needed("onnx", "writing ONNX", "export")
    options = ExportOptions("onnx", shapes.size_hw, 1)
    module, file = DetectionGraph(exportable(model, shapes.canvas_hw)), folder / "fp32.onnx"
    write(options, module, shapes, file, METADATA, images)
    form = exportable(model, shapes.canvas_hw, attention_for("openvino", shapes))
    module, file = DetectionGraph(form), folder / "for_openvino.onnx"
    write(options, module, shapes, file, METADATA, images)
    precise = precise_values(onnx.load(folder / NAMED), precise_modules(module))
    write_openvino(file, folder / "fp32.xml", METADATA)
    calibration = calibration_inputs(shapes, images)
    write_openvino(file, folder / "int8.xml", METADATA, calibration=calibration, precise=precise)


def eager(judge: Judge, start_up_s: float) -> list[Candidate]:
    """The detector itself, in float32 and under autocast to bfloat16."""
    size = sum(value.numel() * value.element_size() for value in judge.model.state_dict().values()) / 1e6

    def in_bfloat16(image: Tensor) -> Answer:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return judge.expected(image)

    return [
        Candidate(FIRST, judge.expected, start_up_s, size),
        Candidate("PyTorch bf16", in_bfloat16, start_up_s, size),
    ]


def exported(model: DINO, shapes: GraphShapes, folder: Path, start_up_s: float) -> list[Candidate]:
    """The detector and its files in their runtimes, with as many threads as torch has."""
    threads = torch.get_num_threads()
    loads: dict[str, tuple[str, Callable[[Path], Any]]] = {
        "ONNX Runtime fp32": ("fp32.onnx", lambda path: OnnxRuntime(path, threads)),
        "OpenVINO fp32": ("fp32.xml", lambda path: OpenVino(path, threads)),
        "OpenVINO bf16": ("fp32.xml", lambda path: OpenVino(path, threads, "bf16")),
        "OpenVINO int8": ("int8.xml", lambda path: OpenVino(path, threads)),
    }
    found = []
    for name, (file, load_file) in loads.items():
        started = time.perf_counter()
        runtime = load_file(folder / file)
        start_up = time.perf_counter() - started
        judge = Judge(runtime, shapes.describe("fp32"), model)
        found += [] if found else eager(judge, start_up_s)
        found.append(Candidate(name, judge.found, start_up, size_mb(folder / file)))
    return found


def table(candidates: Sequence[Candidate], images: Sequence[Tensor], repeats: int) -> str:
    """Markdown; `FIRST` is what the others are compared with."""
    answers = {candidate.name: [candidate.answer(image) for image in images] for candidate in candidates}
    runs = {candidate.name: partial(candidate.answer, images[0]) for candidate in candidates}
    seconds = medians(runs, repeats)
    rows = []
    for candidate in candidates:
        found = compare(answers[candidate.name], answers[FIRST], WIDE)
        rows.append(
            {
                "runs": candidate.name,
                "one picture, s": seconds[candidate.name],
                f"{FIRST} : this": seconds[FIRST] / seconds[candidate.name],
                "start-up, s": candidate.start_up_s,
                "size, MB": candidate.size_mb,
                f"unmatched of {found.num_expected}": found.num_unmatched,
                "largest shift, px": found.largest_shift_px,
                "largest score difference": found.largest_score_gap,
            }
        )
    return tabulate(rows, headers="keys", tablefmt="github", floatfmt=".3g")
