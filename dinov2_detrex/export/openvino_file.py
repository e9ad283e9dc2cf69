"""How is an ONNX file written as an OpenVINO one?"""

import os
from collections.abc import Sequence, Set
from pathlib import Path

from dinov2_detrex.export.bags import sum_in_bags
from dinov2_detrex.export.quantizing import quantize
from dinov2_detrex.inference.exported import KEY, Arrays
from dinov2_detrex.runtime.extras import needed


def write_openvino(
    onnx_file: Path,
    path: Path,
    text: str,
    half: bool = False,
    calibration: Sequence[Arrays] = (),
    precise: Set[str] = frozenset(),
) -> None:
    """Write an .xml with its .bin.

    Args:
        onnx_file: to convert.
        path: of the .xml.
        text: the metadata.
        half: store the weights as float16; they are computed in what the device is told.
        calibration: where given, compute in int8; see `quantizing.quantize`.
        precise: names of values that int8 leaves alone.
    """
    ov = needed("openvino", "writing OpenVINO", "export")
    model = ov.convert_model(os.fspath(onnx_file))
    model = quantize(model, precise, calibration) if calibration else model
    sum_in_bags(model)
    model.set_rt_info(text, [KEY])
    ov.save_model(model, os.fspath(path), compress_to_fp16=half)
