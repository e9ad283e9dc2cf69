"""Drawing over images: what is drawn where, in which size, with which words."""

import subprocess

import numpy as np
import pytest
import torch
from detectron2.data import Metadata
from detectron2.structures import Boxes, BoxMode, Instances
from detectron2.utils.visualizer import ColorMode, Visualizer

matplotlib_colors = pytest.importorskip("matplotlib.colors")

HEIGHT, WIDTH = 40, 60


def an_image(value: int = 128) -> np.ndarray:
    return np.full((HEIGHT, WIDTH, 3), value, dtype=np.uint8)


def predictions(**fields) -> Instances:
    return Instances((HEIGHT, WIDTH), **fields)


def texts(output) -> list[str]:
    return [text.get_text() for text in output.ax.texts]


def test_the_output_has_the_size_of_the_image_times_the_scale():
    for scale in (1.0, 1.5, 2.0):
        image = Visualizer(an_image(), scale=scale).get_output().get_image()
        assert image.shape == (HEIGHT * scale, WIDTH * scale, 3) and image.dtype == np.uint8
        assert (image == 128).all()


def test_values_out_of_range_are_clipped():
    image = np.stack([np.full((HEIGHT, WIDTH), v, dtype=np.float32) for v in (-5.0, 300.0, 7.0)], axis=2)
    assert (Visualizer(image).get_output().get_image() == (0, 255, 7)).all()


def test_a_box_is_drawn_along_its_edges_alone():
    output = Visualizer(an_image(), scale=4.0).draw_box((10, 5, 50, 30), edge_color=(1.0, 0.0, 0.0), alpha=1.0)
    image = output.get_image()
    red = (image == (255, 0, 0)).all(axis=2)
    rows, columns = np.nonzero(red)
    assert abs(columns.min() - 40) < 8 and abs(columns.max() - 200) < 8
    assert abs(rows.min() - 20) < 8 and abs(rows.max() - 120) < 8
    assert not red[40:100, 60:180].any() and (image[70, 100] == 128).all()


@pytest.mark.fallback("detectron2")
def test_predictions_are_labelled_with_class_and_score():
    metadata = Metadata(name="test_visualizer").set(thing_classes=["cat", "dog"])
    instances = predictions(
        pred_boxes=Boxes(torch.tensor([[1.0, 1.0, 9.0, 9.0], [5.0, 5.0, 50.0, 30.0]])),
        scores=torch.tensor([0.916, 0.5]),
        pred_classes=torch.tensor([1, 0]),
    )
    output = Visualizer(an_image(), metadata).draw_instance_predictions(instances)
    assert texts(output) == ["cat 50%", "dog 92%"]  # the larger one first
    assert texts(Visualizer(an_image()).draw_instance_predictions(instances)) == ["0 50%", "1 92%"]
    instances.pred_classes = torch.tensor([1, 2])
    with pytest.raises(IndexError):
        Visualizer(an_image(), metadata).draw_instance_predictions(instances)


@pytest.mark.fallback("detectron2")
def test_tensors_that_require_gradients_are_drawn():
    boxes = Boxes(torch.tensor([[1.0, 1.0, 9.0, 9.0]], requires_grad=True))
    scores = torch.tensor([0.5], requires_grad=True)
    output = Visualizer(an_image()).draw_instance_predictions(predictions(pred_boxes=boxes, scores=scores))
    assert texts(output) == ["50%"]


@pytest.mark.fallback("detectron2")
def test_a_data_set_record_shows_its_boxes_and_marks_crowds():
    annotations = [
        {"bbox": [5, 5, 40, 20], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 0, "iscrowd": 1},
        {"bbox": [1, 1, 9, 9], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 1},
    ]
    metadata = Metadata(name="test_visualizer_2").set(thing_classes=["cat", "dog"])
    output = Visualizer(an_image(), metadata).draw_dataset_dict({"annotations": annotations})
    assert texts(output) == ["cat|crowd", "dog"]
    drawn = [patch.get_bbox().extents.tolist() for patch in output.ax.patches]
    assert drawn == [[5, 5, 45, 25], [1, 1, 9, 9]]
    assert texts(Visualizer(an_image()).draw_dataset_dict({"annotations": []})) == []


@pytest.mark.fallback("detectron2")
def test_masks_tint_their_pixels():
    mask = torch.zeros(1, HEIGHT, WIDTH, dtype=torch.bool)
    mask[0, 10:30, 20:50] = True
    output = Visualizer(an_image()).overlay_instances(masks=mask.numpy(), assigned_colors=[(0.0, 0.0, 1.0)])
    image = output.get_image().astype(int)
    assert np.abs(image[20, 35] - (64, 64, 191)).max() <= 2  # half gray, half blue
    assert (image[5, 5] == 128).all()


@pytest.mark.fallback("detectron2")
def test_polygons_and_run_lengths_are_masks_too():
    segmentations = [[[20, 10, 50, 10, 50, 30, 20, 30]], {"size": [HEIGHT, WIDTH], "counts": [0, HEIGHT * WIDTH]}]
    for segmentation in segmentations:
        record = {"bbox": [20, 10, 30, 20], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 0}
        annotations = [{**record, "segmentation": segmentation}]
        image = Visualizer(an_image()).draw_dataset_dict({"annotations": annotations}).get_image()
        assert (image[25, 40] != 128).any()


def test_lengths_must_agree():
    with pytest.raises(AssertionError):
        Visualizer(an_image()).overlay_instances(boxes=np.zeros((2, 4)), labels=["one"])


@pytest.mark.fallback("detectron2")
def test_classes_have_their_colours_in_segmentation_mode_and_images_can_be_gray():
    metadata = Metadata(name="test_visualizer_3").set(thing_classes=["cat"], thing_colors=[(0, 255, 0)])
    visualizer = Visualizer(an_image(), metadata, instance_mode=ColorMode.SEGMENTATION)
    boxes = Boxes(torch.tensor([[1.0, 1.0, 30.0, 30.0]]))
    instances = predictions(pred_boxes=boxes, pred_classes=torch.tensor([0]))
    output = visualizer.draw_instance_predictions(instances, jittering=False)
    assert matplotlib_colors.to_rgb(output.ax.patches[0].get_edgecolor()) == (0, 1, 0)
    gray = Visualizer(an_image() * np.array([1, 0, 0]), instance_mode=ColorMode.IMAGE_BW).get_output().get_image()
    assert (gray == 42).all()


def test_the_colour_modes_have_their_numbers():
    assert [mode.value for mode in (ColorMode.IMAGE, ColorMode.SEGMENTATION, ColorMode.IMAGE_BW)] == [0, 1, 2]


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_the_picture_can_be_saved(tmp_path, suffix):
    from PIL import Image

    path = tmp_path / f"a.{suffix}"
    Visualizer(an_image()).draw_text("hello", (30, 20)).save(str(path))
    assert Image.open(path).size == (WIDTH, HEIGHT)


@pytest.mark.fallback("detectron2")
def test_matplotlib_is_asked_for_when_something_is_drawn_and_not_before(python, python_env):
    code = (
        "import sys; sys.modules['matplotlib'] = None\n"
        "import dinov2_detrex, numpy\n"
        "from detectron2.utils.visualizer import Visualizer\n"
        "try: Visualizer(numpy.zeros((4, 4, 3)))\n"
        "except ImportError as error: print(error)\n"
    )
    done = subprocess.run([python, "-c", code], env=python_env, capture_output=True, text=True, timeout=120)
    assert "pip install matplotlib" in done.stdout, done.stderr
