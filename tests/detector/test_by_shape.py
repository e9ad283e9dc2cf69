"""In evaluation an image's boxes do not depend on its neighbours in the batch."""

import pytest
import torch
from tiny_dino import image, record, tiny_dino

from dinov2_detrex.detector.by_shape import ByShape, detect_by_shape

SIZES = [(64, 64), (128, 160), (64, 64), (48, 96)]


@pytest.fixture(scope="module")
def detector():
    torch.manual_seed(0)
    return tiny_dino(embed_dim=64, num_heads=4).eval()


@pytest.fixture(scope="module")
def batch():
    return [record(image(*size, seed=i), file_name=str(i)) for i, size in enumerate(SIZES)]


@torch.no_grad()
def test_each_image_of_a_batch_is_answered_as_if_it_were_alone(detector, batch):
    together = ByShape(detector)(batch)
    for answer, single in zip(together, batch, strict=True):
        alone = detector([single])[0]["instances"]
        torch.testing.assert_close(answer["instances"].scores, alone.scores, rtol=0, atol=1e-5)
        torch.testing.assert_close(answer["instances"].pred_boxes.tensor, alone.pred_boxes.tensor, rtol=0, atol=1e-2)


@torch.no_grad()
def test_padded_to_its_neighbours_a_small_image_would_get_other_boxes(detector, batch):
    """What the grouping is for: without it the same comparison fails."""
    padded, alone = detector(batch)[0]["instances"], detector(batch[:1])[0]["instances"]
    assert not torch.allclose(padded.scores, alone.scores, rtol=0, atol=1e-5)


def test_answers_come_in_the_order_of_the_batch_with_a_call_for_each_shape():
    calls = []

    def model(batch):
        calls.append([r["file_name"] for r in batch])
        return [{"name": r["file_name"]} for r in batch]

    batch = [record(torch.zeros(3, *size), file_name=name) for name, size in zip("abcd", SIZES)]
    assert [answer["name"] for answer in detect_by_shape(model, batch)] == list("abcd")
    assert calls == [["a", "c"], ["b"], ["d"]]


@pytest.mark.parametrize("batch", [[], [{"file_name": "a"}], {"image": torch.zeros(3, 4, 4)}, "text"])
def test_what_is_no_batch_of_images_goes_to_the_model_as_it_is(batch):
    assert detect_by_shape(lambda given: given, batch) is batch


def test_it_follows_the_mode_of_the_detector():
    layer = torch.nn.Dropout()
    layer.eval()
    wrapped = ByShape(layer)
    assert not wrapped.training and not layer.training
    wrapped.train()
    assert layer.training
