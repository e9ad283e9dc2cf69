"""On the golden inputs the detector gives detrex's numbers."""

import pytest
import torch
from golden_numbers import fill_from_names, golden_image, load_json, load_npz
from tiny_dino import record, tiny_dino

from dinov2_detrex.detector import multi_scale_deformable_attention

TOLERANCE = 1e-5  # of the largest value


@pytest.fixture(scope="module")
def model():
    model = tiny_dino(label_noise_ratio=0.0, box_noise_scale=0.0)
    fill_from_names(model)
    return model


@pytest.fixture(scope="module")
def golden():
    return load_npz("dino.npz")


def assert_near(got: torch.Tensor, wanted: torch.Tensor):
    torch.testing.assert_close(got, wanted, rtol=0, atol=TOLERANCE * float(wanted.abs().max()))


def training_batch() -> list[dict]:
    first = torch.from_numpy(golden_image("dino/train/0", 3, 128, 192))
    second = torch.from_numpy(golden_image("dino/train/1", 3, 128, 64))
    return [
        record(first, [[10, 12, 70, 90], [30, 40, 180, 120], [100, 5, 140, 60]], [0, 3, 4]),
        record(second, [[8, 8, 56, 100]], [2]),
    ]


def test_state_dict_has_the_names_shapes_and_order_of_detrex(model):
    assert [(key, list(value.shape)) for key, value in model.state_dict().items()] == list(
        load_json("dino_keys.json").items()
    )


def test_detections_are_the_golden_ones(model, golden):
    image = torch.from_numpy(golden_image("dino/eval", 3, 128, 192))
    with torch.no_grad():
        found = model.eval()([record(image, height=256, width=384)])[0]["instances"]
    assert found.image_size == (256, 384)
    assert_near(found.pred_boxes.tensor, golden["eval/boxes"])
    assert_near(found.scores, golden["eval/scores"])
    assert found.pred_classes.tolist() == golden["eval/classes"].tolist()


def test_losses_and_gradients_are_the_golden_ones(model, golden):
    losses = model.train()(training_batch())
    assert set(losses) == {key.split("/")[-1] for key in golden if key.startswith("train/loss/")}
    for name, loss in losses.items():
        assert float(loss.detach()) == pytest.approx(float(golden[f"train/loss/{name}"]), rel=TOLERANCE), name
    total = sum(losses.values())
    assert float(total.detach()) == pytest.approx(float(golden["train/total"]), rel=TOLERANCE)

    model.zero_grad()
    total.backward()
    norms = {name: float(p.grad.norm()) for name, p in model.named_parameters()}
    wanted = load_json("dino_grad_norms.json")
    assert set(norms) == set(wanted)
    for name, norm in wanted.items():
        assert norms[name] == pytest.approx(norm, rel=TOLERANCE), name


def test_deformable_attention_and_its_gradients_are_the_golden_ones():
    golden = load_npz("ms_deform_attn.npz")
    inputs = [golden[name].requires_grad_() for name in ("value", "sampling_locations", "attention_weights")]
    value, locations, weights = inputs
    output = multi_scale_deformable_attention(value, golden["spatial_shapes"], locations, weights)
    assert_near(output, golden["output"])
    for name, grad in zip(
        ("value", "sampling_locations", "attention_weights"), torch.autograd.grad(output, inputs, golden["grad_output"])
    ):
        assert_near(grad, golden[f"grad_{name}"])
