"""In int8 are computed the layers with weights, but those that were named; all else stays in float32."""

import numpy as np
import pytest

from dinov2_detrex.export.quantizing import quantize, unquantised

ov = pytest.importorskip("openvino", reason="needs the extra `export`")

F32 = {"INFERENCE_PRECISION_HINT": "f32"}  # on some machines it computes in bfloat16 by itself


@pytest.fixture
def model():
    """x (1, 8, 16) -> layer "first", attention among its values, layer "last", clipped to 0..1 as boxes are."""
    import openvino.opset13 as ops

    rng = np.random.default_rng(0)
    x = ops.parameter([1, 8, 16], np.float32, name="x")
    first = ops.matmul(x, rng.normal(size=(16, 4), scale=0.25).astype(np.float32), False, False, name="first")
    biased = ops.add(first, np.full((1, 1, 4), 0.25, np.float32), name="first_bias")
    likeness = ops.matmul(biased, biased, False, True, name="likeness")
    mixed = ops.matmul(ops.softmax(likeness, 2, name="softmax"), biased, False, False, name="mixed")
    last = ops.matmul(mixed, rng.normal(size=(4, 4), scale=0.25).astype(np.float32), False, False, name="last")
    boxes = ops.minimum(ops.maximum(last, np.float32(0)), np.float32(1), name="boxes")
    for node in (first, biased, likeness, mixed, last, boxes):
        node.output(0).get_tensor().set_names({node.get_friendly_name()})
    return ov.Model([boxes], [x], "model")


def pictures(count, seed):
    return np.random.default_rng(seed).normal(size=(count, 1, 8, 16)).astype(np.float32)


def test_products_of_activations_and_what_has_no_weights_stay_as_they_are(model):
    named = {one.get_friendly_name() for one in model.get_ops() if one.get_type_name() not in ("Constant", "Result")}
    assert named - set(unquantised(model, set())) == {"x", "first", "last"}


@pytest.mark.parametrize("width, quantised", [(8, True), (-1, False)])
def test_a_convolution_of_maps_of_any_size_stays(width, quantised):
    import openvino.opset13 as ops

    x = ops.parameter(ov.PartialShape([1, 4, 8, width]), np.float32, name="x")
    kernel = np.ones((4, 4, 1, 1), np.float32)
    convolved = ops.convolution(x, kernel, [1, 1], [0, 0], [0, 0], [1, 1], name="convolved")
    assert ("convolved" not in unquantised(ov.Model([convolved], [x], "model"), set())) is quantised


def test_a_layer_that_was_named_stays_with_or_without_its_bias(model):
    assert {"last"} <= set(unquantised(model, {"last"}))
    assert {"first", "first_bias"} <= set(unquantised(model, {"first_bias"}))


def test_int8_gives_nearly_the_same(model):
    pytest.importorskip("nncf", reason="needs the extra `int8`")
    quantised = quantize(model.clone(), {"last"}, [{"x": x} for x in pictures(50, 0)])
    named = {one.get_friendly_name(): one for one in quantised.get_ops()}
    rounded = {name for name, one in named.items() if any(is_rounded(value) for value in one.inputs())}
    assert {name for name in rounded if named[name].get_type_name() == "MatMul"} == {"first"}
    x = pictures(5, 1)
    found, expected = (np.stack([ov.compile_model(m, "CPU", F32)(one)[0] for one in x]) for m in (quantised, model))
    assert 1e-6 < np.abs(found - expected).mean() < 0.02


def is_rounded(value):
    return value.get_source_output().get_node().get_type_name() == "FakeQuantize"
