"""How does OpenVINO sum up what deformable attention samples? In bags, so that no sampled row is copied.

ONNX has no operator for it: there the rows are gathered and multiplied with their weights (`attention.weighted_rows`),
and the gathered ones are many times as much as all else in the layer. OpenVINO has `EmbeddingBagPackedSum`, of which
its CPU plugin takes a fixed number of weighted bags alone (seen in 2026.4), so graphs of any size keep the products.
"""

from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dinov2_detrex.export.attention import (
    GatheringAttention,
    bordered_levels,
    cells_and_fractions,
    rows_of_cells,
)
from dinov2_detrex.export.shapes import GraphShapes
from dinov2_detrex.runtime.extras import needed

MOVING = ("Reshape", "Squeeze", "Unsqueeze")
CORNERS = ((0, 0), (0, 1), (1, 0), (1, 1))  # (down, right) of the four cells around a point


class BagAttention(GatheringAttention):
    """The same with a row of the table for every cell, four of them a point; for graphs of one size.

    A bag reads each row where it lies, so nothing is won by rows of four cells, and making them is saved.
    """

    def table_and_rows(
        self,
        values: Tensor,
        locations: Tensor,
        weights: Tensor,
        shapes_hw: Sequence[tuple[int, int]],
        sizes_wh: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """As of `GatheringAttention`, with rows and weights (B, Q, M, 4 * L * P)."""
        low, fractions = cells_and_fractions(locations, sizes_wh)
        x, y = (value.flatten(3)[:, :, :, None] for value in fractions.unbind(-1))  # B Q M 1 LP
        down, right = torch.tensor(CORNERS, dtype=x.dtype)[:, :, None].unbind(1)  # 4 1
        shares = (1 - right - x).abs() * (1 - down - y).abs()  # B Q M 4 LP; 1 - x on the left, x on the right
        widths = [width + 2 for _, width in shapes_hw for _ in range(self.num_points)]
        steps = [[(down * width + right) * self.num_heads for width in widths] for down, right in CORNERS]
        first = rows_of_cells(low, shapes_hw, sizes_wh, border=2)[:, :, :, None]
        rows = first + torch.tensor(steps, dtype=torch.int32)
        table = torch.cat([grid.flatten(1, 2) for grid in bordered_levels(values, shapes_hw)], dim=1)
        return table.flatten(0, 2), rows.flatten(3), (weights[:, :, :, None] * shares).flatten(3)


def attention_for(file_format: str, shapes: GraphShapes) -> type[GatheringAttention]:
    """The form of deformable attention that suits a format."""
    fixed = shapes.size_hw is not None and shapes.batch is not None
    return BagAttention if file_format == "openvino" and fixed else GatheringAttention


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
    """(table (R, D), rows' indices) of a product of weights with what was gathered by indices the graph computes."""
    if operation.get_type_name() != "MatMul":
        return None
    gather = operation.input_value(1).get_node()
    while gather.get_type_name() in MOVING:
        gather = gather.input_value(0).get_node()
    if gather.get_type_name() != "Gather" or gather.input_value(1).get_node().get_type_name() == "Constant":
        return None
    table, weights = gather.input_value(0), operation.input_value(0).get_partial_shape()
    fits = weights.is_static and len(weights) == 3 and weights[1] == 1
    fits = fits and table.get_partial_shape().compatible(shape_of_rows(operation))
    return (table, gather.input_value(1)) if fits else None


def shape_of_rows(product: Any) -> Any:
    """(any number, D)."""
    return needed("openvino", "writing OpenVINO", "export").PartialShape([-1, product.get_output_partial_shape(0)[2]])


def bags_of(product: Any, table: Any, rows: Any) -> Any:
    """The operation that takes a product's place."""
    ops = operations()
    weights = ops.squeeze(product.input_value(0), np.array([1]))
    shape = np.array(weights.get_output_shape(0))
    rows = ops.reshape(ops.convert(rows, "i32"), shape, special_zero=False)
    return ops.unsqueeze(ops.embedding_bag_packed_sum(table, rows, weights), np.array([1]))


def operations() -> Any:
    """OpenVINO's module of operations, which before 2025 lay in another place."""
    needed("openvino", "writing OpenVINO", "export")
    place = "openvino.opset13" if find_spec("openvino.opset13") else "openvino.runtime.opset13"
    return import_module(place)
