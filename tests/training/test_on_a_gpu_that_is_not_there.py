"""Training and inference with tensors on a GPU that is not there: nothing on the wrong device, no hidden wait, no fp32
where half precision was asked for."""

import contextlib

import pytest
import torch
from tiny_dino import image, record, tiny_backbone, tiny_dino

from dinov2_detrex.data.random_records import random_inputs
from dinov2_detrex.runtime.pretended import OLDEST_TORCH, PretendedDevice, pretends_here
from dinov2_detrex.training.ema import ModelEMA
from dinov2_detrex.training.precision import Precision
from dinov2_detrex.training.trainer import Trainer

pytestmark = pytest.mark.skipif(not pretends_here(), reason=f"needs torch {OLDEST_TORCH}")

CUDA = torch.device("cuda", 0)
BATCHES = {
    "equal sizes": random_inputs((64, 96), batch=2, channels=3),
    "padded": random_inputs((64, 96), batch=1, channels=3) + random_inputs((50, 70), batch=1, channels=3),
    "no objects": [record(image(64, 96), [])],
}
AUTOCASTS = {"eager": None, "bfloat16": torch.bfloat16, "float16": torch.float16}


def on(device: PretendedDevice, dtype=torch.float32, **options):
    return device.move(tiny_dino(tiny_backbone(32), embed_dim=32, num_heads=4, **options).to(dtype))


def in_another_dtype(device, dtype):
    """Products that were not taken in it."""
    return {product: count for product, count in device.products.items() if product[1] != dtype}


def autocast(dtype):
    return contextlib.nullcontext() if dtype is None else torch.autocast("cuda", dtype)


@pytest.fixture
def device():
    with PretendedDevice() as device:
        yield device


@pytest.mark.parametrize("dtype", AUTOCASTS.values(), ids=AUTOCASTS)
@pytest.mark.parametrize("batch", BATCHES.values(), ids=BATCHES)
def test_a_training_step_waits_for_the_assignment_alone(device, batch, dtype):
    model = on(device).train()
    optimizer = torch.optim.AdamW(model.parameters())
    with autocast(dtype):
        losses = model(batch)
    torch.as_tensor(sum(losses.values())).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)
    optimizer.step()
    assert all(loss.device == CUDA and loss.dtype == torch.float32 for loss in losses.values())
    assert all(p.grad is not None and p.grad.device == CUDA for p in model.parameters())
    assert [wait.place.partition("(")[2] for wait in device.waits] == ["_assign)"], list(map(str, device.waits))


@pytest.mark.parametrize("options", [dict(encoder={"use_checkpoint": True}, decoder={"use_checkpoint": True})])
def test_recomputed_layers_wait_no_more(device, options):
    model = on(device, **options).train()
    torch.as_tensor(sum(model(BATCHES["padded"]).values())).backward()
    assert len(device.waits) == 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_products_are_taken_in_the_precision_that_was_asked_for(device, dtype):
    model = on(device).train()
    with autocast(dtype):
        losses = model(BATCHES["padded"])
    torch.as_tensor(sum(losses.values())).backward()
    assert {name for name, _, _ in device.products} >= {"addmm", "convolution", "deformable_attention"}
    assert not in_another_dtype(device, dtype)


@pytest.mark.parametrize("dtype", AUTOCASTS.values(), ids=AUTOCASTS)
def test_inference_gives_boxes_on_the_device_and_waits_for_each_image_when_it_is_done(device, dtype):
    model = on(device).eval()
    with torch.no_grad(), autocast(dtype):
        found = [result["instances"] for result in model(BATCHES["padded"])]
    assert all(x.pred_boxes.tensor.device == x.scores.device == CUDA for x in found)
    places = [wait.place for wait in device.waits]
    assert [place for place in places if "postprocess" not in place and "structures" not in place] == [], places
    if dtype is not None:
        assert not in_another_dtype(device, dtype)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_model_in_half_precision_multiplies_in_it(device, dtype):
    model = on(device, dtype).eval()
    with torch.no_grad():
        model(BATCHES["padded"])
    assert not in_another_dtype(device, dtype)


def test_the_trainer_waits_twice_an_iteration_for_the_assignment_and_for_its_numbers(device):
    model = on(device).train()
    optimizer = torch.optim.AdamW(model.parameters())
    trainer = Trainer(model, [BATCHES["padded"]] * 2, optimizer, precision=Precision(CUDA, torch.bfloat16))
    assert trainer.precision.autocast()._enabled
    trainer.train(0, 2)
    places = [wait.place.partition("(")[2] for wait in device.waits]
    assert places == ["_assign)", "_record)"] * 2, list(map(str, device.waits))


def test_an_average_of_the_weights_is_kept_without_waiting(device):
    model = on(device)
    average = ModelEMA(model)
    average.update()
    assert not device.waits and all(x.device == CUDA for x in average.state_dict().values())


def test_a_wait_is_noticed_where_it_happens(device):
    x = torch.zeros(3, device="cuda")
    assert not device.waits
    bool(x.any()), x.tolist(), x[x > 0], x.nonzero(), x.sum().item()
    assert len(device.waits) == 5


def test_tensors_of_two_devices_do_not_mix(device):
    with pytest.raises(RuntimeError, match="device"):
        torch.zeros(3, device="cuda") + torch.zeros(3)
