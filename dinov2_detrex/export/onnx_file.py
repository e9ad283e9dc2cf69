"""How is the graph written as an ONNX file? By torch's exporter, and slimmed where that changes no number."""

import contextlib
import io
import logging
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.torch_version import TorchVersion as Version

from dinov2_detrex.export.graph import IMAGES
from dinov2_detrex.export.shapes import GraphShapes
from dinov2_detrex.inference.exported import KEY
from dinov2_detrex.runtime.errors import UserError
from dinov2_detrex.runtime.extras import needed

OPSET = 18
OLDEST_TORCH = "2.8"  # before it, a dynamic size has no range


def export_program(graph: nn.Module, shapes: GraphShapes) -> torch.export.ExportedProgram:
    """The graph as torch.export has it, with symbols for what is dynamic.

    Args:
        graph: a `DetectionGraph` or `RawGraph`.
        shapes: what it takes.

    Raises:
        UserError: torch is too old.
    """
    if not exports_here():
        raise UserError(f"exporting needs torch {OLDEST_TORCH} or newer; this is {torch.__version__}")
    with torch.no_grad(), quiet():
        return torch.export.export(graph, shapes.example(), dynamic_shapes=shapes.dynamic_shapes(), strict=False)


def exports_here() -> bool:
    """Whether torch is new enough."""
    return Version(torch.__version__) >= Version(OLDEST_TORCH)


def write_onnx(program: torch.export.ExportedProgram, shapes: GraphShapes, path: Path) -> None:
    """Write a file without metadata.

    Args:
        program: what `export_program` returned.
        shapes: what it takes.
        path: of the file.
    """
    needed("onnxscript", "writing ONNX", "export")
    with quiet():
        written = torch.onnx.export(
            program,
            dynamo=True,
            opset_version=OPSET,
            verbose=False,
            input_names=list(shapes.input_names),
            output_names=list(shapes.output_names),
        )
        assert written is not None
        written.save(os.fspath(path))
    _measure_after_cast(path)


def _measure_after_cast(path: Path) -> None:
    """Take sizes from the pixels as numbers: uint8 is read by a Cast alone then, as TensorRT wants it."""
    onnx = needed("onnx", "writing ONNX", "export")
    model = onnx.load(path)
    nodes = list(model.graph.node)
    cast = next((node for node in nodes if node.op_type == "Cast" and node.input[0] == IMAGES), None)
    if cast is None:
        return
    for node in nodes:
        if node.op_type == "Shape" and node.input[0] == IMAGES:
            node.input[0] = cast.output[0]
    nodes.sort(key=lambda node: node.name != cast.name)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx.save(model, path)


def set_metadata(path: Path, text: str) -> None:
    """Put the text into the file's properties, and take out the notes on nodes, which name local paths."""
    onnx = needed("onnx", "writing ONNX", "export")
    model = onnx.load(path)
    for part in (*model.graph.node, *model.graph.value_info, *model.graph.input, *model.graph.output, model.graph):
        del part.metadata_props[:]
        part.doc_string = ""
    del model.metadata_props[:]
    model.metadata_props.add(key=KEY, value=text)
    onnx.save(model, path)


def slim(path: Path, target: Path) -> bool:
    """Write a copy with fewer nodes by onnxslim; False where it is not installed or cannot read the file."""
    with contextlib.suppress(Exception), quiet():  # what it cannot read stays as it is
        needed("onnxslim", "slimming", "export").slim(os.fspath(path), os.fspath(target))
    return target.is_file()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the exporters' warnings about their own insides."""
    loggers: list[Any] = [
        logging.getLogger(name) for name in ("", "torch.onnx", "torch.export", "onnxscript", "onnx_ir")
    ]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels):
            logger.setLevel(level)
