"""How is a file of each format and number type made of the graph?"""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from dinov2_detrex.export.onnx_file import export_program, set_metadata, slim, write_onnx
from dinov2_detrex.export.openvino_file import write_openvino
from dinov2_detrex.export.options import ExportOptions
from dinov2_detrex.export.precision import nodes_of, precise_modules, precise_nodes, precise_values, to_half
from dinov2_detrex.export.shapes import GraphShapes
from dinov2_detrex.export.tensorrt import trtexec_command
from dinov2_detrex.inference.exported import KEY, Arrays, canvas_for, network_inputs
from dinov2_detrex.runtime.errors import UserError
from dinov2_detrex.runtime.extras import needed
from dinov2_detrex.runtime.files import write_text

NAMED, HALVED = ".named_layers.onnx", ".half.onnx"  # no names that a user gives to a file
TRTEXEC = ".trtexec.sh"


def write(
    options: ExportOptions, module: nn.Module, shapes: GraphShapes, path: Path, text: str, images: Sequence[Tensor]
) -> None:
    """Write a file, and for ONNX and what is made of it a second one beside it, `NAMED`, whose nodes name their layers.

    Args:
        options: what is asked for.
        module: a `DetectionGraph` or `RawGraph`.
        shapes: what it takes.
        path: of the file.
        text: its metadata.
        images: (3, h, w), uint8, RGB, that int8 takes its ranges from.
    """
    if options.format == "aotinductor":
        _require_compiler()
    program = export_program(module, shapes)
    if options.format == "torch-export":
        torch.export.save(program, path, extra_files={KEY: text})
        return
    if options.format == "aotinductor":
        _compile(program, path, text)
        return
    named = path.with_name(NAMED)
    write_onnx(program, shapes, named)
    onnx_file = path.with_suffix(".onnx")
    lowered = _halved(module, named) if options.dtype == "fp16" and options.format == "onnx" else named
    if not slim(lowered, onnx_file):
        shutil.copyfile(lowered, onnx_file)
    if lowered != named:
        lowered.unlink()
    set_metadata(onnx_file, text)
    if options.to == "onnx":
        _write_trtexec(options, module, shapes, onnx_file, named)
    if options.format == "openvino":
        calibration = calibration_inputs(shapes, images) if options.dtype == "int8" else ()
        precise = precise_values(needed("onnx", "writing ONNX", "export").load(named), precise_modules(module))
        write_openvino(onnx_file, path, text, options.dtype == "fp16", calibration, precise)
        onnx_file.unlink()


def _write_trtexec(
    options: ExportOptions, module: nn.Module, shapes: GraphShapes, onnx_file: Path, named: Path
) -> None:
    """Beside the file, the command that makes a TensorRT engine of it, with the layers that must stay float32."""
    onnx = needed("onnx", "writing ONNX", "export")
    values = precise_values(onnx.load(named), precise_modules(module))
    precise = nodes_of(onnx.load(onnx_file), values)
    command = trtexec_command(onnx_file, shapes.describe(options.dtype), precise)
    write_text(onnx_file.with_suffix(TRTEXEC), command + "\n")


def _require_compiler() -> None:
    compiler = os.environ.get("CXX") or "g++"
    if shutil.which(compiler) is None:
        raise UserError(f"--to aotinductor compiles C++, and there is no {compiler}; install one, or name it in CXX")


def _compile(program: torch.export.ExportedProgram, path: Path, text: str) -> None:
    torch._inductor.aoti_compile_and_package(
        program, package_path=str(path), inductor_configs={"aot_inductor.metadata": {KEY: text}}
    )


def _halved(module: nn.Module, named: Path) -> Path:
    """The ONNX file in float16 where it may be; OpenVINO rounds weights by itself."""
    half = named.with_name(HALVED)
    model = needed("onnx", "writing float16", "export").load(named)
    to_half(named, half, precise_nodes(model, precise_modules(module)))
    return half


def calibration_inputs(shapes: GraphShapes, images: Sequence[Tensor]) -> list[Arrays]:
    """The graph's inputs for each image, cut to what a graph of one size takes."""
    height, width = shapes.size_hw or (shapes.largest, shapes.largest)
    cut = [image[:, :height, :width] for image in images]
    return [
        network_inputs([image], canvas_for(shapes.describe("int8"), image.shape[1:]), shapes.batch or 1)
        for image in cut
    ]
