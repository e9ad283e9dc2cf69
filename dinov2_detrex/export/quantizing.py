"""Which operations of an OpenVINO model are computed in int8, and how? By NNCF, the layers with weights alone.

Left to itself NNCF also takes what a transformer computes with two activations, additions before norms, and the boxes
on their way out. Those hold little work and much of the accuracy: a coordinate in 8 bits is no coordinate.
"""

import logging
from collections.abc import Sequence, Set
from typing import Any

from dinov2_detrex.export.onnx_file import quiet
from dinov2_detrex.inference.exported import Arrays
from dinov2_detrex.runtime.extras import needed

PRODUCTS = ("MatMul", "Convolution", "ConvolutionBackpropData", "GroupConvolution")
MOVING = ("Convert", "Reshape", "Squeeze", "Transpose", "Unsqueeze")  # what may stand between a weight and its layer
PASSING = ("Reshape", "Add")  # what stands between a product and its value, once operations are fused


def quantize(model: Any, precise: Set[str], calibration: Sequence[Arrays]) -> Any:
    """An OpenVINO model whose layers with weights, linear ones and convolutions, are computed in int8.

    Args:
        model: as OpenVINO converts it of an ONNX file in float32.
        precise: names of the values that are computed in float32, see `precision.precise_values`.
        calibration: the graph's inputs for pictures of the kind it is for; ranges of activations are taken from them.
    """
    nncf = needed("nncf", "writing int8", "int8")
    nncf.set_log_level(logging.ERROR)
    with quiet():
        return nncf.quantize(
            model,
            nncf.Dataset(calibration),
            model_type=nncf.ModelType.TRANSFORMER,
            preset=nncf.QuantizationPreset.MIXED,
            subset_size=len(calibration),
            ignored_scope=nncf.IgnoredScope(names=unquantised(model, precise), validate=False),
        )


def unquantised(model: Any, precise: Set[str]) -> list[str]:
    """Names of the operations that stay float32: all but the layers that may be computed in int8."""
    left = operations_of(model, precise)
    operations = [one for one in model.get_ops() if one.get_type_name() not in ("Constant", "Parameter", "Result")]
    return [one.get_friendly_name() for one in operations if one.get_friendly_name() in left or not may_be_int8(one)]


def may_be_int8(operation: Any) -> bool:
    """True for a linear layer, and for a convolution of maps of one size.

    Of maps of any size OpenVINO (seen in 2026.4) gives nearly zero in place of an int8 convolution's values.
    """
    if operation.get_type_name() not in PRODUCTS or not has_weights(operation):
        return False
    height_width = list(operation.get_output_partial_shape(0))[2:]
    return operation.get_type_name() == "MatMul" or not any(side.is_dynamic for side in height_width)


def has_weights(operation: Any) -> bool:
    """True where one of a product's factors is a constant."""
    return any(_source(value).get_type_name() == "Constant" for value in operation.inputs())


def _source(value: Any) -> Any:
    """The operation that computes an input, before it was only moved."""
    operation = value.get_source_output().get_node()
    while operation.get_type_name() in MOVING:
        operation = operation.input_value(0).get_node()
    return operation


def operations_of(model: Any, values: Set[str]) -> set[str]:
    """Names of the operations that compute these values, with the products whose bias or shape they change."""
    found = set()
    waiting = [one for one in model.get_ops() if any(values & set(output.get_names()) for output in one.outputs())]
    while waiting:
        operation = waiting.pop()
        found.add(operation.get_friendly_name())
        if operation.get_type_name() in PASSING:
            before = [value.get_source_output().get_node() for value in operation.inputs()]
            waiting += [one for one in before if one.get_type_name() in (*PASSING, *PRODUCTS)]
    return found
