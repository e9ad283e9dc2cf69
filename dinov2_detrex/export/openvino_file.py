"""How is an ONNX file written as an OpenVINO one?"""

import os
from pathlib import Path

from dinov2_detrex.inference.exported import KEY
from dinov2_detrex.runtime.extras import needed


def write_openvino(onnx_file: Path, path: Path, text: str, half: bool = False) -> None:
    """Write an .xml with its .bin.

    Args:
        onnx_file: to convert.
        path: of the .xml.
        text: the metadata.
        half: store the weights as float16; they are computed in what the device is told.
    """
    ov = needed("openvino", "writing OpenVINO", "export")
    model = ov.convert_model(os.fspath(onnx_file))
    model.set_rt_info(text, [KEY])
    ov.save_model(model, os.fspath(path), compress_to_fp16=half)
