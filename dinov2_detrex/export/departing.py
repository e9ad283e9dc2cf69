"""Which layer is the first at which an ONNX file departs from the detector?"""

import ast
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dinov2_detrex.export.shapes import GraphShapes
from dinov2_detrex.inference.exported import network_inputs
from dinov2_detrex.runtime.extras import needed

SCOPES = "pkg.torch.onnx.name_scopes"  # of a node's properties: the modules that it lies in, by name
TOLERANCE = 1e-3  # of the largest value of a layer's output


def first_departure(path: Path, graph: nn.Module, shapes: GraphShapes, images: Sequence[Tensor]) -> str:
    """In words, which layer's output is the first to differ by more than a thousandth of its largest value.

    Args:
        path: of the file as torch's exporter wrote it, whose nodes name their modules.
        graph: the module that it was made of.
        shapes: what it takes.
        images: (3, h, w), uint8, RGB; the first is looked at.
    """
    inputs = _inputs(shapes, images[0])
    expected = outputs_of_modules(graph, inputs)
    values = values_of_modules(path)
    names = [name for name in expected if name in values]
    found = _run_with_outputs(path, shapes, inputs, [values[name] for name in names])
    for name, value in zip(names, found):
        gap = departure(value, expected[name])
        if gap > TOLERANCE:
            return f"the first layer that departs is {name} (by {gap:.2g} of its largest value)"
    return f"none of the {len(names)} layers that can be compared departs; the difference is in the file's last steps"


def departure(found: np.ndarray, expected: np.ndarray) -> float:
    """The largest difference as a share of the largest expected value; infinite for another shape or NaN."""
    if found.shape != expected.shape or not np.isfinite(found).all():
        return np.inf
    finite = np.where(np.isfinite(expected), expected, 0.0)
    return float(np.abs(found - finite).max() / max(np.abs(finite).max(), 1e-12))


def _inputs(shapes: GraphShapes, image: Tensor) -> tuple[Tensor, ...]:
    if shapes.raw:
        return tuple(torch.randn_like(value) for value in shapes.example())
    height, width = shapes.size_hw or shapes.example()[0].shape[1:3]
    arrays = network_inputs([image[:, :height, :width]], (height, width), shapes.batch or 1)
    return tuple(torch.from_numpy(arrays[name]) for name in shapes.input_names)


@torch.no_grad()
def outputs_of_modules(graph: nn.Module, inputs: Sequence[Tensor]) -> dict[str, np.ndarray]:
    """Output by module's name, in the order in which the modules end, of those that give one float tensor, once."""
    outputs: dict[str, list[np.ndarray]] = {}

    def keep(name: str) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            if isinstance(output, Tensor) and output.is_floating_point():
                outputs.setdefault(name, []).append(output.numpy().copy())  # a ReLU may follow in place

        return hook

    handles = [module.register_forward_hook(keep(name)) for name, module in graph.named_modules() if name]
    graph(*inputs)
    for handle in handles:
        handle.remove()
    return {name: values[0] for name, values in outputs.items() if len(values) == 1}


def values_of_modules(path: Path) -> dict[str, str]:
    """Module's name -> the name of the last value that was computed in it."""
    onnx = needed("onnx", "looking for the layer that departs", "export")
    found: dict[str, str] = {}
    for node in onnx.load(path, load_external_data=False).graph.node:
        for name in scopes_of(node):
            found[name] = node.output[0]
    return found


def scopes_of(node: Any) -> list[str]:
    """Names of the modules that a node lies in, outer ones first; [] where the file does not say."""
    texts = [entry.value for entry in node.metadata_props if entry.key == SCOPES]
    return [name for text in texts for name in ast.literal_eval(text)[:-1] if name]


def _run_with_outputs(
    path: Path, shapes: GraphShapes, inputs: Sequence[Tensor], names: Sequence[str]
) -> list[np.ndarray]:
    """Run the file with these values as outputs."""
    onnx = needed("onnx", "looking for the layer that departs", "export")
    ort = needed("onnxruntime", "running a file", "export")
    model = onnx.load(path)
    del model.graph.output[:]
    model.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in dict.fromkeys(names))
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    feed = {name: value.numpy() for name, value in zip(shapes.input_names, inputs)}
    found = dict(zip(dict.fromkeys(names), session.run(None, feed)))
    return [found[name] for name in names]
