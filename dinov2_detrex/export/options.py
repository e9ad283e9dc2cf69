"""What can be asked of an export?"""

from dataclasses import dataclass

from dinov2_detrex.export.repository import SERVERS
from dinov2_detrex.runtime.errors import UsageError

DTYPES = ("fp32", "fp16", "int8")


@dataclass(frozen=True)
class ExportOptions:
    """What is asked for.

    Attributes:
        to: a name of `formats.FORMATS`.
        size_hw: (height, width) of the graph's images in pixels; None for any.
        batch: images; None for any number.
        largest: the longest side of a dynamic size, in pixels.
        dtype: one of `DTYPES`: what matrix products and convolutions may be computed in.
        raw: the network alone.
        data, data_images: a data set for AP, which float16 and int8 are judged by: a folder (or FOLDER#part) of a known
            format or a JSON file, and the folder of a JSON's images.

    Raises:
        UsageError: what does not go together.
    """

    to: str
    size_hw: tuple[int, int] | None = None
    batch: int | None = 1
    largest: int = 2048
    dtype: str = "fp32"
    raw: bool = False
    data: str | None = None
    data_images: str | None = None

    @property
    def format(self) -> str:
        """The format of the file itself, which a server's repository holds."""
        return SERVERS.get(self.to, self.to)

    def __post_init__(self):
        if self.raw and self.to in SERVERS:
            raise UsageError(f"--to {self.to} serves boxes; leave out --raw")
        if self.batch not in (None, 1) and self.to in SERVERS:
            raise UsageError(f"--to {self.to} serves one picture at a time or any number: --batch 1 or dynamic")
        if self.dtype == "fp32":
            return
        if self.dtype == "int8" and self.format != "openvino":
            raise UsageError("--dtype int8 is for --to openvino and ovms; ONNX Runtime gained next to nothing by it")
        if self.format not in ("onnx", "openvino"):
            raise UsageError(f"--dtype {self.dtype} is for --to onnx and openvino; {self.to} is written in fp32")
        if self.raw or self.data is None:
            raise UsageError(f"--dtype {self.dtype} is judged by AP: give --data PATH, and no --raw")
