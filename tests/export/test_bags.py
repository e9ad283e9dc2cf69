"""A product with gathered rows is summed in bags, to the same numbers; other products stay."""

import numpy as np
import pytest

from dinov2_detrex.export.bags import sum_in_bags

ov = pytest.importorskip("openvino", reason="needs the extra `export`")

F32 = {"INFERENCE_PRECISION_HINT": "f32"}  # on some machines it computes in bfloat16 by itself


def product_of_rows(num_bags, rows):
    """weights (N, 1, 6), table (7, 8), rows -> (N, 1, 4): three rows of two cells each a bag."""
    import openvino.opset13 as ops

    weights = ops.parameter(ov.PartialShape([num_bags, 1, 6]), np.float32, name="weights")
    table = ops.parameter([7, 8], np.float32, name="table")
    rows = ops.parameter(ov.PartialShape([-1]), np.int32, name="rows") if rows is None else ops.constant(rows)
    cells = ops.reshape(ops.gather(table, rows, np.int32(0)), np.array([-1, 6, 4]), special_zero=False)
    product = ops.matmul(weights, cells, False, False, name="sums")
    product.output(0).get_tensor().set_names({"sums"})
    inputs = [one for one in (weights, table, rows) if one.get_type_name() == "Parameter"]
    return ov.Model([product], inputs, "model")


def test_bags_give_the_products_numbers():
    model = product_of_rows(5, rows=None)
    rng = np.random.default_rng(0)
    inputs = [rng.normal(size=(5, 1, 6)), rng.normal(size=(7, 8)), rng.integers(0, 7, 15)]
    inputs = [value.astype(kind) for value, kind in zip(inputs, (np.float32, np.float32, np.int32))]
    expected = ov.compile_model(model.clone(), "CPU", F32)(inputs)[0]
    assert sum_in_bags(model) == 1
    kinds = {one.get_type_name() for one in model.get_ops()}
    assert "EmbeddingBagPackedSum" in kinds and not {"MatMul", "Gather"} & kinds
    np.testing.assert_allclose(ov.compile_model(model, "CPU", F32)(inputs)["sums"], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("num_bags, rows", [(2, np.arange(6, dtype=np.int32)), (-1, None)])
def test_a_product_with_rows_that_are_known_beforehand_and_one_of_any_size_stay(num_bags, rows):
    model = product_of_rows(num_bags, rows)
    assert sum_in_bags(model) == 0
    ov.compile_model(model, "CPU", F32)
