"""The graph that is exported answers as the detector does, for every backbone, size and padding."""

import pytest
import torch
from small_detectors import KINDS, small_detector
from tiny_dino import image, record

from dinov2_detrex.export.graph import DetectionGraph, RawGraph, canvas_multiple, exportable

SIZES = {"square": (128, 128), "tall": (192, 64), "wide": (70, 250), "smaller than a window": (30, 40)}


def answers(graph, images):
    """Per image (boxes, scores, labels) without what is none, all images on one canvas."""
    canvas_hw = tuple(-(-max(x.shape[i] for x in images) // graph.multiple) * graph.multiple for i in (1, 2))
    canvas = torch.full((len(images), *canvas_hw, 3), 77, dtype=torch.uint8)
    for x, own in zip(images, canvas):
        own[: x.shape[1], : x.shape[2]] = x.permute(1, 2, 0)
    found = graph(canvas, torch.tensor([x.shape[1:] for x in images]))
    return [tuple(value[scores > 0] for value in (boxes, scores, labels)) for boxes, scores, labels in zip(*found)]


def assert_same(found, instances):
    boxes, scores, labels = found
    assert len(scores) == len(instances) > 0
    torch.testing.assert_close(boxes, instances.pred_boxes.tensor, rtol=0, atol=5e-3)
    torch.testing.assert_close(scores, instances.scores, rtol=0, atol=1e-5)
    assert labels.tolist() == instances.pred_classes.tolist()


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_the_graph_of_any_size_gives_the_detectors_boxes(kind):
    model = small_detector(kind)
    graph = DetectionGraph(exportable(model, None))
    for size_hw in SIZES.values():
        assert_same(answers(graph, [image(*size_hw)])[0], model([record(image(*size_hw))])[0]["instances"])


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_the_graph_of_one_size_gives_the_detectors_boxes_of_padded_images(kind):
    model = small_detector(kind)
    images = [image(100, 190, 0), image(60, 128, 1), image(33, 71, 2)]
    multiple = canvas_multiple(model)
    graph = DetectionGraph(exportable(model, (-(-100 // multiple) * multiple, -(-190 // multiple) * multiple)))
    for found, expected in zip(answers(graph, images), model([record(x) for x in images])):
        assert_same(found, expected["instances"])


@torch.no_grad()
def test_a_canvas_that_the_levels_do_not_tile_is_filled_up():
    model = small_detector("patch 14")
    graph = DetectionGraph(exportable(model, (112, 168)))
    pixels = image(100, 150)
    boxes, scores, labels = graph(pixels.permute(1, 2, 0)[None], torch.tensor([[100, 150]]))
    keep = scores[0] > 0
    assert_same((boxes[0][keep], scores[0][keep], labels[0][keep]), model([record(pixels)])[0]["instances"])


@torch.no_grad()
def test_a_detector_of_bgr_images_is_given_rgb():
    model = small_detector("hub", input_format="BGR")
    found = answers(DetectionGraph(exportable(model, None)), [image(128, 128)])[0]
    assert_same(found, model([record(image(128, 128).flip(0))])[0]["instances"])


@torch.no_grad()
def test_the_raw_graph_is_the_network_alone():
    model = small_detector("hub")
    pixels = torch.randn(1, 3, 128, 192)
    logits, boxes = RawGraph(exportable(model, (128, 192)))(pixels)
    expected = model.predict(pixels)
    torch.testing.assert_close(logits, expected["pred_logits"], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(boxes, expected["pred_boxes"], rtol=0, atol=1e-5)


def test_the_detector_itself_stays_as_it_is():
    model = small_detector("hub", aux_loss=True)
    names = [name for name, _ in model.named_modules()]
    exportable(model, (128, 128))
    assert [name for name, _ in model.named_modules()] == names and model.aux_loss and model.criterion is not None
