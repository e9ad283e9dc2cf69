"""Will TensorRT read an ONNX file, and with which command? A table of operators, and the text for trtexec.

TensorRT itself runs on NVIDIA's GPUs alone, so what it makes of the file is not verified here.
"""

import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from dinov2_detrex.runtime.extras import needed

# The operators of the table docs/operators.md of ONNX-TensorRT, release 10.1; that of 10.15 has all of them and more.
OPERATORS = frozenset(
    """
    Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh AveragePool BatchNormalization Cast CastLike Ceil
    Celu Clip Concat Constant ConstantOfShape Conv ConvTranspose Cos Cosh CumSum DeformConv DepthToSpace
    DequantizeLinear Div Dropout Einsum Elu Equal Erf Exp Expand EyeLike Flatten Floor Gather GatherElements
    GatherND Gelu Gemm GlobalAveragePool GlobalLpPool GlobalMaxPool Greater GreaterOrEqual GridSample
    GroupNormalization GRU HardSigmoid HardSwish Hardmax Identity If ImageScaler InstanceNormalization IsInf IsNaN
    LayerNormalization LeakyRelu Less LessOrEqual Log LogSoftmax Loop LRN LSTM LpNormalization LpPool MatMul Max
    MaxPool Mean MeanVarianceNormalization Min Mish Mod Mul Neg NonMaxSuppression NonZero Not OneHot Or Pad
    ParametricSoftplus Pow PRelu QuantizeLinear RandomNormal RandomNormalLike RandomUniform RandomUniformLike Range
    Reciprocal ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum
    ReduceSumSquare Relu Reshape Resize ReverseSequence RNN RoiAlign Round ScaledTanh Scan Scatter ScatterElements
    ScatterND Selu Shape Shrink Sigmoid Sign Sin Sinh Size Slice Softmax Softplus Softsign SpaceToDepth Split Sqrt
    Squeeze Sub Sum Tan Tanh ThresholdedRelu Tile TopK Transpose Trilu Unsqueeze Upsample Where Xor
    """.split()
)
MIN_OPSET, MAX_OPSET = 17, 20  # below 17 layer norms come in pieces, which overflow in half precision
MAX_K = 3840  # TopK takes fewer
CONSTANT_AXES = {"Slice": 3, "Pad": 3, "CumSum": 1, "Squeeze": 1, "Unsqueeze": 1}  # operator -> which input they are
REDUCTIONS = "Reduce"  # how the names of operators begin whose second input are axes
AVOIDED = {"GridSample": "TensorRT converts it wrongly inside deformable attention"}


def objections(path: Path) -> list[str]:
    """What TensorRT 10.6 would not read, or would read wrongly, one line each; [] where nothing is known."""
    model = needed("onnx", "looking at operators", "export").load(path, load_external_data=False)
    opset = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    found = [] if MIN_OPSET <= opset <= MAX_OPSET else [f"opset {opset} is not in {MIN_OPSET}..{MAX_OPSET}"]
    kinds = {f"{node.domain}.{node.op_type}".lstrip(".") for node in nodes(model)}
    found += [f"{kind} is not among its operators" for kind in sorted(kinds - OPERATORS)]
    found += [f"{kind}: {reason}" for kind, reason in AVOIDED.items() if kind in kinds]
    return found + _restricted(model) + _large_topk(model)


def nodes(model: Any) -> Iterable[Any]:
    """All nodes, those of the file's functions included."""
    yield from model.graph.node
    for function in model.functions:
        yield from function.node


def _restricted(model: Any) -> list[str]:
    """What the table says beside an operator's name: uint8 goes into a Cast alone, axes are constants."""
    onnx = needed("onnx", "looking at operators", "export")
    uint8 = {i.name for i in model.graph.input if i.type.tensor_type.elem_type == onnx.TensorProto.UINT8}
    constant = {tensor.name for tensor in model.graph.initializer} | {""}
    constant |= {node.output[0] for node in model.graph.node if node.op_type == "Constant"}
    found = []
    for node in model.graph.node:
        if node.op_type != "Cast" and uint8 & set(node.input):
            found.append(f"{node.name}: {node.op_type} reads uint8, which Cast alone may")
        if not _axes(node) <= constant:
            found.append(f"{node.name}: the axes of {node.op_type} are no constant")
    return found


def _axes(node: Any) -> set[str]:
    """The input that holds a node's axes."""
    place = 1 if node.op_type.startswith(REDUCTIONS) else CONSTANT_AXES.get(node.op_type)
    return set() if place is None else set(node.input[place : place + 1])


def _large_topk(model: Any) -> list[str]:
    onnx = needed("onnx", "looking at operators", "export")
    single = [tensor for tensor in model.graph.initializer if not tensor.dims or tensor.dims[0] == 1]
    numbers = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in single}
    topk = [node for node in model.graph.node if node.op_type == "TopK"]
    found = [f"{node.name}: its K is no constant" for node in topk if node.input[1] not in numbers]
    known = [(node, int(numbers[node.input[1]].item())) for node in topk if node.input[1] in numbers]
    return found + [f"{node.name}: K = {k} is not below {MAX_K}" for node, k in known if k >= MAX_K]


def trtexec_command(path: Path, graph: dict[str, Any], precise: Iterable[str], dtype: str = "fp16") -> str:
    """The command that makes an engine of a file on the machine that will run it.

    Args:
        path: of the ONNX file.
        graph: what it takes, see `source.describe`.
        precise: names of the nodes that must be computed in float32.
        dtype: "fp32", "fp16" or "int8", what the others may be computed in.
    """
    words = ["trtexec", f"--onnx={path.name}", f"--saveEngine={path.stem}.engine"]
    if dtype != "fp32":
        words += ["--fp16", *(["--int8"] if dtype == "int8" else []), "--precisionConstraints=obey"]
        words.append("--layerPrecisions=" + ",".join(f"{name}:fp32" for name in precise))
    for flag, side in (("min", "smallest"), ("opt", "opt"), ("max", "largest")):
        if graph["height"] is None or graph["batch"] is None:
            words.append(f"--{flag}Shapes={_shapes(graph, side)}")
    return " ".join(map(shlex.quote, words))


def _shapes(graph: dict[str, Any], side: str) -> str:
    """The inputs' sizes for one end of the range."""
    common = min(max(-(-800 // graph["multiple"]) * graph["multiple"], graph["smallest"]), graph["largest"])
    size = common if side == "opt" else graph[side]
    height, width = graph["height"] or size, graph["width"] or size
    batch = graph["batch"] or (8 if side == "largest" else 1)
    if graph["raw"]:
        return f"images:{batch}x3x{height}x{width}"
    return f"images:{batch}x{height}x{width}x3,sizes:{batch}x2"
