"""What does an exported file answer? It stands in the detector's place: detectron2's records in, Instances out.

    model, mapper, classes, thresholds = open_exported("model.onnx")

The file says all of it: what it was made of, how pictures are prepared for it, and which sizes it takes. Nothing in it
is executed but the graph. `dinov2_detrex/export` writes such files.
"""

import json
import os
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from detectron2.config import instantiate
from detectron2.modeling import detector_postprocess
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn

from dinov2_detrex.config.packaged import parse_packaged
from dinov2_detrex.detector.matcher import NonFinitePredictions
from dinov2_detrex.runtime.errors import UsageError, UserError, one_line
from dinov2_detrex.runtime.extras import needed

KEY = "dinov2_detrex"  # of the metadata, a JSON text, in an ONNX file's properties and an OpenVINO file's rt_info
FORMAT = 1
Arrays = dict[str, np.ndarray]


class Runtime(Protocol):
    """A file that was loaded: what it says of itself, its inputs and outputs in order, and how it is run."""

    metadata: dict[str, Any]
    input_names: list[str]
    output_names: list[str]

    def run(self, inputs: Arrays) -> Arrays:
        """Outputs by name."""
        ...


class OnnxRuntime:
    """An ONNX file in onnxruntime, on the CPU.

    Args:
        path: of the file.
        num_threads: 0 for onnxruntime's own choice.
    """

    def __init__(self, path: str | os.PathLike, num_threads: int = 0):
        ort = needed("onnxruntime", f"running {path}", "export")
        self.path = path
        options = ort.SessionOptions()
        options.intra_op_num_threads = num_threads
        options.log_severity_level = 3
        try:
            self.session = ort.InferenceSession(os.fspath(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's own errors have no common root
            raise UserError(f"{path} cannot be run by onnxruntime: {one_line(error)}") from error
        self.metadata = parse_metadata(self.session.get_modelmeta().custom_metadata_map.get(KEY), path)
        self.input_names = [node.name for node in self.session.get_inputs()]
        self.output_names = [node.name for node in self.session.get_outputs()]

    def run(self, inputs: Arrays) -> Arrays:
        """Outputs by name."""
        try:
            values = self.session.run(None, {name: inputs[name] for name in self.input_names})
        except Exception as error:
            raise UserError(f"{self.path} fails in onnxruntime: {one_line(error)}") from error
        return dict(zip(self.output_names, map(np.asarray, values)))


class OpenVino:
    """An OpenVINO file (.xml beside its .bin) or an ONNX file in OpenVINO, on the CPU.

    Args:
        path: of the file.
        num_threads: 0 for OpenVINO's own choice.
        precision: "f32" or "bf16", what is computed in.
    """

    def __init__(self, path: str | os.PathLike, num_threads: int = 0, precision: str = "f32"):
        ov = needed("openvino", f"running {path}", "export")
        settings = {"INFERENCE_PRECISION_HINT": precision}
        settings |= {"INFERENCE_NUM_THREADS": num_threads} if num_threads else {}
        self.path = path
        try:
            core = ov.Core()
            model = core.read_model(os.fspath(path))
            self.compiled = core.compile_model(model, "CPU", settings)
        except Exception as error:  # a RuntimeError for anything
            raise UserError(f"{path} cannot be run by OpenVINO: {one_line(error)}") from error
        text = model.get_rt_info([KEY]).value if model.has_rt_info([KEY]) else None
        self.metadata = parse_metadata(text, path)
        self.input_names = [port.get_any_name() for port in self.compiled.inputs]
        self.output_names = [port.get_any_name() for port in self.compiled.outputs]

    def run(self, inputs: Arrays) -> Arrays:
        """Outputs by name."""
        try:
            results = self.compiled({name: inputs[name] for name in self.input_names})
        except RuntimeError as error:
            raise UserError(f"{self.path} fails in OpenVINO: {one_line(error)}") from error
        return {name: np.array(results[i]) for i, name in enumerate(self.output_names)}


class TorchProgram:
    """A program of torch.export, or what AOTInductor compiled of one, run by torch.

    The latter is machine code: load one only where you trust its origin.

    Args:
        path: of the .pt2 file.
        num_threads: not used; torch's own number counts.
    """

    def __init__(self, path: str | os.PathLike, num_threads: int = 0):
        try:
            self.module, text = _load_compiled(path) if _is_compiled(path) else _load_program(path)
        except Exception as error:  # a damaged file fails in any way
            raise UserError(f"{path} is no program of torch.export or AOTInductor: {one_line(error)}") from error
        self.metadata = parse_metadata(text or None, path)
        raw = bool(self.metadata) and self.metadata["graph"]["raw"]
        self.input_names = ["images"] if raw else ["images", "sizes"]
        self.output_names = ["pred_logits", "pred_boxes"] if raw else ["boxes", "scores", "labels"]

    @torch.no_grad()
    def run(self, inputs: Arrays) -> Arrays:
        """Outputs by name."""
        values = self.module(*(torch.from_numpy(inputs[name]) for name in self.input_names))
        return {name: value.numpy() for name, value in zip(self.output_names, values)}


def _is_compiled(path: str | os.PathLike) -> bool:
    """True for a package of AOTInductor."""
    with zipfile.ZipFile(path) as archive:
        return any("aotinductor" in name for name in archive.namelist())


def _load_compiled(path: str | os.PathLike) -> tuple[Any, str]:
    loaded = torch._inductor.aoti_load_package(os.fspath(path))
    return loaded, loaded.get_metadata().get(KEY, "")


def _load_program(path: str | os.PathLike) -> tuple[Any, str]:
    extra = {KEY: ""}
    return torch.export.load(os.fspath(path), extra_files=extra).module(), extra[KEY]


RUNTIMES: dict[str, type[OnnxRuntime] | type[OpenVino] | type[TorchProgram]] = {
    ".onnx": OnnxRuntime,
    ".xml": OpenVino,
    ".pt2": TorchProgram,
}


def is_exported(path: Any) -> bool:
    """True for the name of a file that `open_exported` reads."""
    return isinstance(path, str | os.PathLike) and Path(path).suffix in RUNTIMES


def refuse_changes(path: str, overrides: Sequence[str], weights: str = "", compiled: bool = False) -> None:
    """UsageError for what changes a detector, where an exported file takes its place."""
    asked = [*overrides, *([f"--weights {weights}"] if weights else []), *(["--compile"] if compiled else [])]
    if asked:
        raise UsageError(f"{path} is an exported file with its weights and config; leave out {' '.join(asked)}")


def load_runtime(path: str | os.PathLike, num_threads: int = 0) -> Runtime:
    """The file in the runtime for its kind.

    Raises:
        UserError: it is missing, of no known kind, or the runtime cannot read it.
    """
    if not is_exported(path):
        raise UserError(f"{path} is no exported file: their names end in {', '.join(RUNTIMES)}")
    if not Path(path).is_file():
        raise UserError(f"{path} does not exist")
    return RUNTIMES[Path(path).suffix](path, num_threads)


def parse_metadata(text: str | None, path: str | os.PathLike) -> dict[str, Any]:
    """What an exported file says of itself; {} where it says nothing.

    Raises:
        UserError: it is damaged, or of a later version.
    """
    if text is None:
        return {}
    try:
        found = json.loads(text)
        version = found["format"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: its metadata {KEY} are damaged ({one_line(error)})") from error
    if version > FORMAT:
        raise UserError(f"{path} has metadata of format {version}, this version reads {FORMAT}; upgrade dinov2_detrex")
    return found


class ExportedDetector(nn.Module):
    """An exported file as a detector in evaluation mode.

    Args:
        runtime: the loaded file, a graph with pre- and post-processing.
        path: named in errors.

    Raises:
        UserError: the file does not say what it takes, or is the network alone.
    """

    def __init__(self, runtime: Runtime, path: str | os.PathLike):
        super().__init__()
        if not runtime.metadata:
            raise UserError(f"{path} was not exported by this project: it does not say what pictures it takes")
        self.graph = runtime.metadata["graph"]
        if self.graph["raw"]:
            raise UserError(f"{path} is the network alone (--raw); it has no boxes in pixels")
        self.runtime = runtime
        self.bgr = runtime.metadata["input_format"] == "BGR"
        self.num_classes = len(runtime.metadata["classes"])

    def forward(self, batched_inputs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """As `DINO.forward` in evaluation; a picture that a graph of one size cannot take is scaled down to fit.

        Raises:
            NonFinitePredictions: predictions are NaN or infinite.
        """
        images = [self._fitting(record["image"]) for record in batched_inputs]
        step = self.graph["batch"] or len(images)
        found = []
        for start in range(0, len(images), step):
            found += self._detect(images[start : start + step])
        return [{"instances": _resized(instances, record)} for instances, record in zip(found, batched_inputs)]

    def _fitting(self, image: Tensor) -> Tensor:
        """(3, h, w) uint8 RGB, not larger than the largest canvas."""
        image = image.flip(0) if self.bgr else image
        limits = [self.graph["height"] or self.graph["largest"], self.graph["width"] or self.graph["largest"]]
        factor = min(limit / size for limit, size in zip(limits, image.shape[1:]))
        if factor >= 1:
            return image
        size = [max(1, round(factor * n)) for n in image.shape[1:]]
        return F.interpolate(image[None], size=size, mode="bilinear", antialias=True)[0]

    def _detect(self, images: list[Tensor]) -> list[Instances]:
        count = self.graph["batch"] or len(images)
        largest = [max(image.shape[axis] for image in images) for axis in (1, 2)]
        inputs = network_inputs(images, canvas_for(self.graph, largest), count)
        outputs = self.runtime.run(inputs)
        boxes, scores, labels = (torch.from_numpy(outputs[name]) for name in ("boxes", "scores", "labels"))
        if not bool(torch.isfinite(boxes).all() & torch.isfinite(scores).all()):
            raise NonFinitePredictions("the exported graph's boxes or scores contain NaN or infinite values")
        return [_instances(image, *found) for image, *found in zip(images, boxes, scores, labels)]


def canvas_for(graph: dict[str, Any], size_hw: Sequence[int]) -> tuple[int, int]:
    """Height and width of the canvas that a graph takes images of up to (height, width) `size_hw` on."""
    multiple, smallest = graph["multiple"], graph["smallest"]
    height, width = (max(-(-side // multiple) * multiple, smallest) for side in size_hw)
    return graph["height"] or height, graph["width"] or width


def network_inputs(images: Sequence[Tensor], canvas_hw: tuple[int, int], count: int) -> Arrays:
    """What a graph takes for images (3, h, w), uint8 RGB, the last of which is repeated up to `count`."""
    canvas = np.zeros((count, *canvas_hw, 3), dtype=np.uint8)
    sizes = np.zeros((count, 2), dtype=np.int64)
    for i in range(count):
        image = images[min(i, len(images) - 1)]
        height, width = image.shape[1:]
        canvas[i, :height, :width] = image.permute(1, 2, 0).numpy()
        sizes[i] = height, width
    return {"images": canvas, "sizes": sizes}


def _instances(image: Tensor, boxes: Tensor, scores: Tensor, labels: Tensor) -> Instances:
    keep = scores > 0
    found = Instances((image.shape[1], image.shape[2]))
    found.pred_boxes, found.scores, found.pred_classes = Boxes(boxes[keep]), scores[keep], labels[keep]
    return found


def _resized(instances: Instances, record: dict[str, Any]) -> Instances:
    """Boxes in pixels of the size that the record asks for, else of its image."""
    height, width = record["image"].shape[1:]
    return detector_postprocess(instances, record.get("height", height), record.get("width", width))


@dataclass(frozen=True)
class Exported:
    """An exported file, ready for pictures.

    Attributes:
        model: the graph in the detector's place.
        mapper: from {"file_name": ...} to a record for the model.
        class_names, category_ids: by the model's index.
        thresholds: {"default": score, "by_class": {name: score}}.
    """

    model: ExportedDetector
    mapper: Any
    class_names: list[str]
    category_ids: list[int]
    thresholds: dict[str, Any]


def open_exported(path: str | os.PathLike, num_threads: int = 0) -> Exported:
    """Load an exported file.

    Args:
        path: of an .onnx or .xml file.
        num_threads: of its runtime; 0 for the runtime's own choice.

    Raises:
        UserError: it cannot be read, or was not exported with its pre- and post-processing.
        MissingPackageError: its runtime is not installed.
    """
    runtime = load_runtime(path, num_threads)
    model = ExportedDetector(runtime, path).eval()
    metadata = runtime.metadata
    mapper = instantiate(parse_packaged(metadata["mapper"], str(path)))
    names, ids = zip(*((entry["name"], entry["id"]) for entry in metadata["classes"]))
    return Exported(model, mapper, list(names), list(ids), metadata["thresholds"])
