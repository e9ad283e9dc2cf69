"""How does an existing server serve an exported file? Its model repository, and a client to try it.

NVIDIA Triton Inference Server runs the ONNX file, OpenVINO Model Server the OpenVINO one; both speak KServe v2.
"""

import json
from typing import Any

SERVERS = {"triton": "onnx", "ovms": "openvino"}  # the format of the file that each runs
MAX_BATCH = 8

_TENSORS = {  # name -> Triton's type, dimensions without the batch
    "images": ("UINT8", "{height}, {width}, 3"),
    "sizes": ("INT64", "2"),
    "boxes": ("FP32", "-1, 4"),
    "scores": ("FP32", "-1"),
    "labels": ("INT64", "-1"),
}

_CLIENT = '''\
"""Ask a server about a picture, by KServe v2 over HTTP: python client.py PICTURE [http://localhost:8000]

It needs numpy and pillow. The picture should be resized as the detector's evaluation does, see model.json.
"""

import json
import sys
import urllib.request

import numpy as np
from PIL import Image, ImageOps

NAME, MULTIPLE, SMALLEST, SIZE = {name!r}, {multiple}, {smallest}, {size}  # SIZE: (height, width), None for any
CLASSES = {classes!r}


def ask(pixels, url):
    """Boxes XYXY in pixels, scores and labels of an image (H, W, 3), uint8, RGB."""
    height, width = pixels.shape[:2]
    rows, columns = SIZE or [max(-(-side // MULTIPLE) * MULTIPLE, SMALLEST) for side in (height, width)]
    canvas = np.zeros((1, rows, columns, 3), np.uint8)
    canvas[0, :height, :width] = pixels
    inputs = {{"images": canvas, "sizes": np.array([[height, width]], np.int64)}}
    header = json.dumps({{"inputs": [describe(name, value) for name, value in inputs.items()]}}).encode()
    body = header + b"".join(value.tobytes() for value in inputs.values())
    headers = {{"Inference-Header-Content-Length": str(len(header)), "Content-Type": "application/octet-stream"}}
    request = urllib.request.Request(f"{{url}}/v2/models/{{NAME}}/infer", body, headers)
    with urllib.request.urlopen(request, timeout=60) as answer:
        outputs = json.load(answer)["outputs"]
    found = {{output["name"]: np.array(output["data"]).reshape(output["shape"]) for output in outputs}}
    return found["boxes"][0], found["scores"][0], found["labels"][0].astype(int)


def describe(name, value):
    kind = {{"uint8": "UINT8", "int64": "INT64"}}[value.dtype.name]
    return {{"name": name, "shape": value.shape, "datatype": kind, "parameters": {{"binary_data_size": value.nbytes}}}}


if __name__ == "__main__":
    picture = ImageOps.exif_transpose(Image.open(sys.argv[1])).convert("RGB")
    server = sys.argv[2] if len(sys.argv) > 2 else "http://localhost:8000"
    for box, score, label in zip(*ask(np.asarray(picture), server)):
        if score >= {threshold}:
            print(f"{{CLASSES[label]}} {{score:.2f}} {{box.round(1).tolist()}}")
'''


def repository_files(kind: str, name: str, metadata: dict[str, Any]) -> dict[str, str]:
    """Texts of a repository by their place in it, beside the model itself.

    Args:
        kind: "triton" or "ovms".
        name: of the model.
        metadata: of its file.
    """
    texts = {"client.py": client_text(name, metadata), "model.json": json.dumps(metadata, indent=1)}
    if kind == "triton":
        return texts | {f"{name}/config.pbtxt": triton_config(name, metadata["graph"])}
    entry = {"config": {"name": name, "base_path": f"/models/{name}"}}
    return texts | {"config.json": json.dumps({"model_config_list": [entry]}, indent=1)}


def model_place(kind: str, name: str) -> str:
    """Where the model's file lies in a repository, in version 1."""
    return f"{name}/1/model.{'onnx' if kind == 'triton' else 'xml'}"


def triton_config(name: str, graph: dict[str, Any]) -> str:
    """config.pbtxt; a graph of any batch is given several pictures of one canvas at a time."""
    batched = graph["batch"] is None
    sides = {side: graph[side] or -1 for side in ("height", "width")}
    lines = [f'name: "{name}"', 'backend: "onnxruntime"', f"max_batch_size: {MAX_BATCH if batched else 0}"]
    for tensor, (kind, dims) in _TENSORS.items():
        place = "input" if tensor in ("images", "sizes") else "output"
        shape = dims.format(**sides) if batched else f"{graph['batch']}, {dims.format(**sides)}"
        lines.append(f'{place} {{ name: "{tensor}" data_type: TYPE_{kind} dims: [ {shape} ] }}')
    return "\n".join([*lines, *(["dynamic_batching { }"] if batched else [])]) + "\n"


def client_text(name: str, metadata: dict[str, Any]) -> str:
    """A program that asks about one picture."""
    graph = metadata["graph"]
    return _CLIENT.format(
        name=name,
        multiple=graph["multiple"],
        smallest=graph["smallest"],
        size=(graph["height"], graph["width"]) if graph["height"] else None,
        classes=[entry["name"] for entry in metadata["classes"]],
        threshold=metadata["thresholds"]["default"],
    )
