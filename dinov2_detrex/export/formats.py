"""Which formats are there, and what is missing for the others?"""

from dinov2_detrex.runtime.errors import UsageError, did_you_mean

FORMATS = {  # name -> what follows the detector's name in the file's, or in the folder's of a server's repository
    "onnx": ".onnx",
    "openvino": ".xml",
    "torch-export": ".pt2",
    "aotinductor": "_compiled.pt2",
    "triton": "_triton",
    "ovms": "_ovms",
}
_ENGINE = "an engine is made on the GPU that runs it: export --to onnx, and run the trtexec command that it prints"
MISSING = {
    "tensorrt": _ENGINE,
    "engine": _ENGINE,
    "coreml": "coremltools reads no program of this torch version, and its answers can be compared on a Mac alone",
    "tflite": "TFLite has no gather of rows by an index computed in the graph that its converters accept from torch",
    "torchscript": "torch has deprecated it; --to torch-export is what took its place",
    "ncnn": "ncnn has no TopK",
    "paddle": "its converter needs PaddlePaddle, which is not supported",
    "tf": "there is no converter from torch.export to TensorFlow that is maintained",
    "rknn": "its toolkit is not on PyPI for this platform",
    "mnn": "its converter's answers could not be compared here",
}


def suffix_of(name: str) -> str:
    """The suffix of a format's file.

    Raises:
        UsageError: there is no such format; says what is missing for it.
    """
    if name in MISSING:
        raise UsageError(f"--to {name} cannot be made: {MISSING[name]}")
    if name not in FORMATS:
        raise UsageError(f"--to {name} is no format; there are {', '.join(FORMATS)}{did_you_mean(name, FORMATS)}")
    return FORMATS[name]
