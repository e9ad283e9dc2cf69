"""Weights cast once give what autocast gives with weights that it casts in every call, to the bit."""

import pytest
import torch
from tiny_dino import image, record, tiny_dino
from torch import nn

from dinov2_detrex.inference.casting import cast_weights


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_detections_are_equal_and_products_find_their_weights_cast(dtype):
    torch.manual_seed(0)
    model = tiny_dino().eval()
    batch = [record(image(96, 128)), record(image(128, 90, seed=1))]
    with torch.inference_mode(), torch.autocast("cpu", dtype):
        expected = model(batch)
    cast_weights(model, dtype)
    with torch.inference_mode(), torch.autocast("cpu", dtype):
        found = model(batch)
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one["instances"].scores, other["instances"].scores)
        assert torch.equal(one["instances"].pred_boxes.tensor, other["instances"].pred_boxes.tensor)
    products = (nn.Linear, nn.Conv2d, nn.ConvTranspose2d, nn.MultiheadAttention)
    for module in model.modules():
        wanted = dtype if isinstance(module, products) else torch.float32
        assert all(parameter.dtype == wanted for parameter in module.parameters(recurse=False)), module
