"""How does an OpenVINO model sum up what deformable attention samples? In bags, so that no sampled row is copied.

ONNX has no operator for it: there the rows are gathered and multiplied with their weights (`attention.weighted_rows`),
and the gathered ones are many times as much as all else in the layer. OpenVINO has `EmbeddingBagPackedSum`, of which
its CPU plugin takes a fixed number of weighted bags alone (seen in 2026.4), so graphs of any size keep the products.
"""

from typing import Any

import numpy as np

from dinov2_detrex.runtime.extras import needed

MOVING = ("Reshape", "Squeeze", "Unsqueeze")


def sum_in_bags(model: Any) -> int:
    """Put bags in the place of the products (N, 1, K) x (N, K, D) with rows that were gathered; how many it were.

    Args:
        model: of OpenVINO, as it converts an ONNX file; it is changed.
    """
    found = [(product, gathered_rows(product)) for product in model.get_ordered_ops()]
    found = [(product, rows) for product, rows in found if rows is not None]
    for product, rows in found:
        bags = bags_of(product, *rows)
        bags.set_friendly_name(product.get_friendly_name())
        bags.output(0).get_tensor().set_names(product.output(0).get_names())
        product.output(0).replace(bags.output(0))
    model.validate_nodes_and_infer_types()
    return len(found)


def gathered_rows(operation: Any) -> tuple[Any, Any] | None:
    """(table, rows' indices) of a product of weights with what was gathered by an index that the graph computes."""
    if operation.get_type_name() != "MatMul":
        return None
    gather = operation.input_value(1).get_node()
    while gather.get_type_name() in MOVING:
        gather = gather.input_value(0).get_node()
    if gather.get_type_name() != "Gather" or gather.input_value(1).get_node().get_type_name() == "Constant":
        return None
    table, weights = gather.input_value(0), operation.input_value(0).get_partial_shape()
    fits = (
        table.get_partial_shape().rank.get_length() == 2 and weights.is_static and len(weights) == 3 and weights[1] == 1
    )
    return (table, gather.input_value(1)) if fits else None


def bags_of(product: Any, table: Any, rows: Any) -> Any:
    """The operation that takes a product's place; a row of the table may hold several of D numbers, one cell each."""
    ops = needed("openvino.opset13", "writing OpenVINO", "export")
    width = product.get_output_partial_shape(0)[2].get_length()
    num_cells = table.get_partial_shape()[1].get_length() // width
    weights = ops.squeeze(product.input_value(0), np.array([1]))
    first = ops.multiply(ops.convert(rows, "i32"), np.int32(num_cells))
    cells = ops.add(ops.unsqueeze(first, np.array([-1])), np.arange(num_cells, dtype=np.int32))
    cells = ops.reshape(cells, ops.shape_of(weights), special_zero=False)
    table = ops.reshape(table, np.array([-1, width]), special_zero=False)
    return ops.unsqueeze(ops.embedding_bag_packed_sum(table, cells, weights), np.array([1]))
