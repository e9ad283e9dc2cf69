"""How does an existing server serve an exported file? Its model repository, and a client to try it.

NVIDIA Triton Inference Server runs the ONNX file, OpenVINO Model Server the OpenVINO one; both speak KServe v2.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from dinov2_detrex.runtime.extras import needed

SERVERS = {"triton": "onnx", "ovms": "openvino"}  # the format of the file that each runs
MAX_BATCH = 8

TRITON_TYPES = {"UINT8": "TYPE_UINT8", "INT64": "TYPE_INT64", "FLOAT": "TYPE_FP32"}  # by ONNX's name

_CLIENT = '''\
"""Ask a server about a picture, by KServe v2 over HTTP: python client.py PICTURE [http://localhost:8000]

It needs numpy and pillow. model.json says all that is known of the model.
"""

import json
import sys
import urllib.error
import urllib.request
from urllib.parse import quote

import numpy as np
from PIL import Image, ImageOps

NAME, CLASSES = {name!r}, {classes!r}
EDGES = {edges}  # pixels of the shorter side, and of the longer one at most, as in the detector's evaluation
SIZE = {size}  # (height, width) of the canvas; None for any multiples of MULTIPLE from SMALLEST to LARGEST
MULTIPLE, SMALLEST, LARGEST = {multiple}, {smallest}, {largest}


def detect(picture, server):
    """Boxes XYXY in pixels of a picture, scores, and labels, those of what is none too (score 0)."""
    small = resized(picture)
    boxes, scores, labels = ask(np.asarray(small), server)
    scale = [picture.width / small.width, picture.height / small.height]
    return boxes * (scale * 2), scores, labels.astype(int)


def resized(picture):
    """A picture of the size that the model is to see."""
    sides = picture.height, picture.width
    factor = min(EDGES[0] / min(sides), EDGES[1] / max(sides)) if EDGES else 1.0
    factor = min(factor, *(limit / side for limit, side in zip(SIZE or (LARGEST, LARGEST), sides)))
    size = [max(1, int(factor * side + 0.5)) for side in (picture.width, picture.height)]
    return picture.resize(size, Image.Resampling.BILINEAR)


def ask(pixels, server):
    """What the model answers to an image (H, W, 3), uint8, RGB."""
    height, width = pixels.shape[:2]
    rows, columns = SIZE or [max(-(-side // MULTIPLE) * MULTIPLE, SMALLEST) for side in (height, width)]
    canvas = np.zeros((1, rows, columns, 3), np.uint8)
    canvas[0, :height, :width] = pixels
    inputs = {{"images": canvas, "sizes": np.array([[height, width]], np.int64)}}
    header = json.dumps({{"inputs": [describe(name, value) for name, value in inputs.items()]}}).encode()
    body = header + b"".join(value.tobytes() for value in inputs.values())
    headers = {{"Inference-Header-Content-Length": str(len(header)), "Content-Type": "application/octet-stream"}}
    request = urllib.request.Request(f"{{server}}/v2/models/{{quote(NAME)}}/infer", body, headers)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            outputs = json.load(answer)["outputs"]
    except urllib.error.HTTPError as error:
        raise RuntimeError(f"{{server}} answers {{error.code}}: {{error.read().decode()}}") from error
    found = {{output["name"]: np.array(output["data"]).reshape(output["shape"]) for output in outputs}}
    return found["boxes"][0], found["scores"][0], found["labels"][0]


def describe(name, value):
    """An input of the request, whose numbers follow behind the JSON text."""
    kind = {{"uint8": "UINT8", "int64": "INT64"}}[value.dtype.name]
    return {{"name": name, "shape": value.shape, "datatype": kind, "parameters": {{"binary_data_size": value.nbytes}}}}


if __name__ == "__main__":
    picture = ImageOps.exif_transpose(Image.open(sys.argv[1])).convert("RGB")
    address = sys.argv[2] if len(sys.argv) > 2 else "http://localhost:8000"
    for box, score, label in zip(*detect(picture, address)):
        if score >= {threshold}:
            print(f"{{CLASSES[label]}} {{score:.2f}} {{[round(side, 1) for side in box.tolist()]}}")
'''


@dataclass(frozen=True)
class Port:
    """An input or output of an ONNX file.

    Attributes:
        place: "input" or "output".
        name: of the tensor.
        kind: its type as ONNX calls it.
        dims: with the batch; -1 for any.
    """

    place: str
    name: str
    kind: str
    dims: tuple[int, ...]


def ports(path: Path) -> list[Port]:
    """Inputs and outputs of an ONNX file, in order."""
    onnx = needed("onnx", "describing a model to Triton", "export")
    graph = onnx.load(path, load_external_data=False).graph
    found = []
    for place, values in (("input", graph.input), ("output", graph.output)):
        for value in values:
            tensor = value.type.tensor_type
            dims = tuple(dim.dim_value or -1 for dim in tensor.shape.dim)
            found.append(Port(place, value.name, onnx.TensorProto.DataType.Name(tensor.elem_type), dims))
    return found


def repository_files(kind: str, name: str, metadata: dict[str, Any], file: Path) -> dict[str, str]:
    """Texts of a repository by their place in it, beside the model itself.

    Args:
        kind: "triton" or "ovms".
        name: of the model.
        metadata: of its file.
        file: that was written.
    """
    texts = {"client.py": client_text(name, metadata), "model.json": json.dumps(metadata, indent=1)}
    if kind == "triton":
        return texts | {f"{name}/config.pbtxt": triton_config(name, ports(file), metadata["graph"]["batch"] is None)}
    entry = {"config": {"name": name, "base_path": f"/models/{name}"}}
    return texts | {"config.json": json.dumps({"model_config_list": [entry]}, indent=1)}


def model_place(kind: str, name: str) -> str:
    """Where the model's file lies in a repository, in version 1."""
    return f"{name}/1/model.{'onnx' if kind == 'triton' else 'xml'}"


def triton_config(name: str, tensors: Sequence[Port], batched: bool) -> str:
    """config.pbtxt, whose dimensions are the file's, as Triton demands; of a batch they are without its size.

    Args:
        name: of the model.
        tensors: of its file.
        batched: the file takes any number of pictures, so Triton may gather those of one canvas.
    """
    lines = [f"name: {json.dumps(name)}", 'backend: "onnxruntime"', f"max_batch_size: {MAX_BATCH if batched else 0}"]
    for port in tensors:
        dims = ", ".join(map(str, port.dims[1:] if batched else port.dims))
        lines.append(f'{port.place} {{ name: "{port.name}" data_type: {TRITON_TYPES[port.kind]} dims: [ {dims} ] }}')
    return "\n".join([*lines, *(["dynamic_batching { }"] if batched else [])]) + "\n"


def client_text(name: str, metadata: dict[str, Any]) -> str:
    """A program that asks about one picture."""
    graph = metadata["graph"]
    return _CLIENT.format(
        name=name,
        classes=[entry["name"] for entry in metadata["classes"]],
        edges=edges_of(metadata["mapper"]),
        size=(graph["height"], graph["width"]) if graph["height"] else None,
        threshold=metadata["thresholds"]["default"],
        **{limit: graph[limit] for limit in ("multiple", "smallest", "largest")},
    )


def edges_of(mapper: str) -> tuple[int, int] | None:
    """(shorter, longer at most) in pixels of the one `ResizeShortestEdge` of a mapper; None for any other."""
    steps = yaml.safe_load(mapper).get("augmentation") or []
    if len(steps) != 1 or not steps[0]["_target_"].endswith(".ResizeShortestEdge"):
        return None
    shorter = steps[0]["short_edge_length"]
    lengths = {shorter} if isinstance(shorter, int) else set(shorter)
    return (lengths.pop(), steps[0].get("max_size", sys.maxsize)) if len(lengths) == 1 else None
