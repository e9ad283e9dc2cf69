"""Which layers may be computed in float16 or int8, and how is an ONNX file changed so that they are in float16?

Matrix products, convolutions and what only moves numbers may. Norms, softmax, positions, what decides where deformable
attention looks, and the heads of boxes and classes stay float32; so does the first attention of a DINOv3, whose large
activations half precision does not hold. `quantizing.py` leaves more than these in float32.
"""

from collections.abc import Iterable, Sequence, Set
from pathlib import Path
from typing import Any

from torch import nn

from dinov2_detrex.backbone import TimmBackbone
from dinov2_detrex.export.departing import scopes_of
from dinov2_detrex.runtime.extras import needed

HEAVY = ("MatMul", "Gemm", "Conv", "ConvTranspose")
MOVING = ("Reshape", "Transpose", "Slice", "Squeeze", "Unsqueeze", "Gather", "Relu", "Identity")  # by their first input
PASSING = ("Reshape", "Add")  # what stands between a product and its value, once nodes are fused
NORMS = ("LayerNormalization", "GroupNormalization", "InstanceNormalization", "Softmax", "ReduceMean", "TopK")
PRECISE_MODULES = (
    "sampling_offsets",
    "attention_weights",
    "bbox_embed",
    "class_embed",
    "ref_point_head",
    "patch_embed",
)


def precise_modules(graph: nn.Module) -> list[str]:
    """Names, or parts of names, of the modules that stay float32."""
    backbones = [(name, module) for name, module in graph.named_modules() if isinstance(module, TimmBackbone)]
    rotary = [f"{name}.timm_model.model.blocks.0.attn" for name, module in backbones if hasattr(module.vit, "rope")]
    return [*PRECISE_MODULES, *rotary]


def precise_nodes(model: Any, modules: Sequence[str]) -> list[str]:
    """Names of the nodes of an ONNX file, as torch's exporter wrote it, that stay float32."""
    found = []
    for node in model.graph.node:
        inside = any(part in scope for scope in scopes_of(node) for part in modules)
        if node.op_type in NORMS or (inside and node.op_type in HEAVY):
            found.append(node.name)
    return found


def precise_values(model: Any, modules: Sequence[str]) -> set[str]:
    """Names of the values that those nodes compute, also biased and reshaped: what is fused keeps the last of them."""
    names = set(precise_nodes(model, modules))
    nodes = [node for node in model.graph.node if node.name in names]
    products = {node.output[0] for node in nodes if node.op_type in HEAVY}
    weights = {tensor.name for tensor in model.graph.initializer}
    for node in model.graph.node:
        biased = node.op_type == "Add" and products & set(node.input) and weights & set(node.input)
        if biased or (node.op_type == "Reshape" and node.input[0] in products):
            products.add(node.output[0])
    return products | {node.output[0] for node in nodes}


def nodes_of(model: Any, values: Set[str]) -> list[str]:
    """Names of the nodes of an ONNX file that compute these values, with what they reshape or add a bias to."""
    makers = {name: node for node in model.graph.node for name in node.output}
    found = {}
    waiting = [makers[name] for name in values if name in makers]
    while waiting:
        node = waiting.pop()
        found[node.name] = None
        if node.op_type in PASSING:
            before = [makers[name] for name in node.input if name in makers]
            waiting += [one for one in before if one.op_type in (*PASSING, *HEAVY)]
    return [node.name for node in model.graph.node if node.name in found]


def to_half(path: Path, target: Path, precise: Iterable[str]) -> None:
    """Write a copy that computes in float16 where it may; inputs and outputs stay as they are.

    Args:
        path: of an ONNX file in float32.
        target: of the copy.
        precise: names of nodes that stay float32.
    """
    onnx = needed("onnx", "writing float16", "export")
    model = onnx.load(path)
    writer = _HalfWriter(onnx, model.graph, set(precise))
    nodes = [new for node in list(model.graph.node) for new in writer.rewritten(node)]
    del model.graph.node[:]
    model.graph.node.extend(_used(nodes, {output.name for output in model.graph.output}))
    read = {name for node in model.graph.node for name in node.input}
    kept = [tensor for tensor in model.graph.initializer if tensor.name in read]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept + writer.weights)
    del model.graph.value_info[:]  # they are of float32
    onnx.save(model, target)


class _HalfWriter:
    """Rewrites node by node, and remembers which values there are in float16."""

    def __init__(self, onnx: Any, graph: Any, precise: set[str]):
        self.onnx, self.precise = onnx, precise
        float32 = onnx.TensorProto.FLOAT
        self.initializers = {t.name: t for t in graph.initializer if t.data_type == float32}
        self.half: dict[str, str] = {}  # a value in float32 -> the same in float16
        self.weights: list[Any] = []

    def rewritten(self, node: Any) -> list[Any]:
        """The nodes that stand in place of one."""
        if node.op_type in HEAVY and node.name not in self.precise:
            return self._in_half(node, range(len(node.input)))
        if node.op_type in MOVING and node.input[0] in self.half:
            return self._in_half(node, [0])
        return [node]

    def _in_half(self, node: Any, inputs: Iterable[int]) -> list[Any]:
        casts = []
        for i in inputs:
            if node.input[i]:
                casts += self._halved(node.input[i])
                node.input[i] = self.half[node.input[i]]
        output = node.output[0]
        node.output[0] = self.half[output] = f"{output}_half"
        return [*casts, node, self._cast(node.output[0], output, self.onnx.TensorProto.FLOAT)]

    def _halved(self, name: str) -> list[Any]:
        """What must come first so that there is a value in float16."""
        if name in self.half:
            return []
        self.half[name] = f"{name}_half"
        if name not in self.initializers:
            return [self._cast(name, self.half[name], self.onnx.TensorProto.FLOAT16)]
        array = self.onnx.numpy_helper.to_array(self.initializers[name]).astype("float16")
        self.weights.append(self.onnx.numpy_helper.from_array(array, self.half[name]))
        return []

    def _cast(self, source: str, target: str, kind: int) -> Any:
        return self.onnx.helper.make_node("Cast", [source], [target], name=f"cast_{target}", to=kind)


def _used(nodes: Sequence[Any], outputs: set[str]) -> list[Any]:
    """The nodes whose values are read, in their order."""
    wanted, kept = set(outputs), []
    for node in reversed(nodes):
        if wanted & set(node.output):
            kept.append(node)
            wanted |= set(node.input)
    return kept[::-1]
