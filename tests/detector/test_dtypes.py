"""The whole detector can be cast: in half, bfloat16 and double precision it detects and trains, near its fp32 self."""

import copy

import pytest
import torch
from golden_numbers import fill_from_names, golden_image
from tiny_dino import record, small_dino, tiny_dino

from dinov2_detrex.detector import DINO

SIZES = ((96, 128), (64, 48))  # the second is padded, so that masks and valid ratios take part


@pytest.fixture(scope="module")
def float32_model() -> DINO:
    model = tiny_dino(label_noise_ratio=0.0, box_noise_scale=0.0)
    fill_from_names(model)
    return model


def cast(model: DINO, dtype: torch.dtype) -> DINO:
    return copy.deepcopy(model).to(dtype)


def batch() -> list[dict]:
    images = [torch.from_numpy(golden_image(f"dtypes/{size}", 3, *size)).byte() for size in SIZES]
    return [record(image, [[4, 6, 40, 30]], [1]) for image in images]


def raw_predictions(model: DINO) -> tuple[torch.Tensor, torch.Tensor]:
    images = model.eval().preprocess(batch())
    with torch.no_grad():
        found = model.predict(images.tensor, images.image_sizes)
    return found["pred_logits"].double(), found["pred_boxes"].double()


def test_double_precision_agrees_with_float32(float32_model):
    for found, wanted in zip(raw_predictions(cast(float32_model, torch.float64)), raw_predictions(float32_model)):
        finite = wanted.isfinite()
        torch.testing.assert_close(found[finite], wanted[finite], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype, tolerance", [(torch.float16, 0.05), (torch.bfloat16, 0.1)])
def test_half_precision_detects_finite_boxes_with_scores_near_those_of_float32(float32_model, dtype, tolerance):
    with torch.no_grad():
        wanted = float32_model.eval()(batch())
        results = cast(float32_model, dtype)(batch())
    for found, expected in zip(results, wanted):
        found, expected = found["instances"], expected["instances"]
        assert len(found) == len(expected) and found.scores.dtype == torch.float32
        assert found.pred_boxes.tensor.isfinite().all()
        torch.testing.assert_close(found.scores, expected.scores, rtol=0, atol=tolerance)


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-5), (torch.float16, 0.05), (torch.bfloat16, 0.2)])
def test_every_loss_and_gradient_is_there_in_any_precision(dtype, tolerance):
    float32_model = small_dino(label_noise_ratio=0.0, box_noise_scale=0.0)
    model = cast(float32_model, dtype).train()
    losses = model(batch())
    sum(losses.values()).backward()
    for name, wanted in float32_model.train()(batch()).items():
        assert float(losses[name].detach()) == pytest.approx(float(wanted.detach()), rel=tolerance, abs=tolerance), name
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.dtype == dtype and parameter.grad.isfinite().all(), name


def test_a_softmax_over_classes_trains_in_half_precision_too():
    model = small_dino(criterion={"loss_class_type": "ce_loss"}).bfloat16()
    assert all(loss.isfinite() for loss in model.train()(batch()).values())


def test_a_bfloat16_state_dict_loads_into_a_float32_detector(float32_model):
    model = copy.deepcopy(float32_model)
    model.load_state_dict(cast(float32_model, torch.bfloat16).state_dict())
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    for found, wanted in zip(model.parameters(), float32_model.parameters()):
        torch.testing.assert_close(found, wanted, rtol=0.01, atol=1e-3)
