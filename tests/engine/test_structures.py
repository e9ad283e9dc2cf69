"""What boxes, instances, image batches and masks promise."""

import numpy as np
import pytest
import torch
from detectron2.structures import (
    BitMasks,
    Boxes,
    BoxMode,
    ImageList,
    Instances,
    PolygonMasks,
    pairwise_iou,
    polygons_to_bitmask,
)

BOXES = [[1.0, 2.0, 5.0, 9.0], [0.0, 0.0, 3.0, 3.0], [4.0, 4.0, 4.0, 8.0]]


# Boxes


def test_a_float32_tensor_is_shared_and_other_types_become_float32():
    tensor = torch.tensor(BOXES)
    assert Boxes(tensor).tensor is tensor
    for other in (BOXES, np.array(BOXES), torch.tensor(BOXES).double()):
        assert Boxes(other).tensor.dtype == torch.float32
        assert torch.equal(Boxes(other).tensor, tensor)


@pytest.mark.parametrize("empty", [[], torch.zeros(0), torch.zeros(0, 4), np.zeros((0, 4))])
def test_empty_boxes_have_four_columns(empty):
    assert Boxes(empty).tensor.shape == (0, 4)


def test_boxes_of_another_shape_are_refused():
    with pytest.raises(AssertionError):
        Boxes(torch.zeros(2, 5))
    with pytest.raises(AssertionError):
        Boxes(torch.zeros(4))


def test_area_and_centers_follow_from_the_corners():
    boxes = Boxes(BOXES)
    assert boxes.area().tolist() == [28.0, 9.0, 0.0]
    assert boxes.get_centers().tolist() == [[3.0, 5.5], [1.5, 1.5], [4.0, 6.0]]


def test_clip_limits_to_height_and_width_and_leaves_aliases_alone():
    tensor = torch.tensor([[-1.0, -2.0, 9.0, 9.0]])
    boxes = Boxes(tensor)
    boxes.clip((4, 6))
    assert boxes.tensor.tolist() == [[0, 0, 6, 4]]
    assert tensor.tolist() == [[-1, -2, 9, 9]]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_clipping_boxes_that_are_not_finite_is_an_error(value):
    with pytest.raises(AssertionError):
        Boxes([[0.0, 0.0, value, 1.0]]).clip((4, 4))


def test_scale_reaches_those_who_share_the_tensor():
    tensor = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    Boxes(tensor).scale(2, 10)
    assert tensor.tolist() == [[2, 20, 6, 40]]


def test_a_box_is_nonempty_when_both_sides_pass_the_threshold():
    assert Boxes(BOXES).nonempty().tolist() == [True, True, False]
    assert Boxes(BOXES).nonempty(3.5).tolist() == [True, False, False]


def test_indexing_boxes_gives_boxes():
    boxes = Boxes(BOXES)
    assert boxes[1].tensor.tolist() == [BOXES[1]]
    assert boxes[-1].tensor.tolist() == [BOXES[2]]
    assert boxes[1:].tensor.tolist() == BOXES[1:]
    assert boxes[torch.tensor([True, False, True])].tensor.tolist() == [BOXES[0], BOXES[2]]
    assert boxes[torch.tensor([2, 0])].tensor.tolist() == [BOXES[2], BOXES[0]]
    assert boxes[[2, 0]].tensor.tolist() == [BOXES[2], BOXES[0]]
    with pytest.raises(AssertionError):
        boxes[torch.tensor(1)]


def test_boxes_are_iterated_as_vectors_and_joined():
    assert [box.tolist() for box in Boxes(BOXES)] == BOXES
    assert Boxes.cat([Boxes(BOXES[:1]), Boxes(BOXES[1:])]).tensor.tolist() == BOXES
    assert len(Boxes.cat([])) == 0


def test_a_clone_is_independent_and_to_takes_no_dtype():
    boxes = Boxes(BOXES)
    boxes.clone().scale(3, 3)
    assert boxes.tensor.tolist() == BOXES
    with pytest.raises(TypeError):
        boxes.to(torch.float16)


def test_inside_box_allows_the_threshold():
    boxes = Boxes([[0.0, 0.0, 3.0, 3.0], [-1.0, 0.0, 3.0, 3.0], [0.0, 0.0, 3.0, 7.0]])
    assert boxes.inside_box((5, 6)).tolist() == [True, False, False]
    assert boxes.inside_box((5, 6), boundary_threshold=3).tolist() == [True, True, True]


def test_iou_equals_the_share_of_common_pixels():
    rng = np.random.RandomState(0)
    corners = np.sort(rng.randint(0, 15, (8, 2, 2)), axis=1).reshape(8, 4)  # x0 y0 x1 y1, some without area

    def pixels(box):
        canvas = np.zeros((15, 15), bool)
        canvas[box[1] : box[3], box[0] : box[2]] = True
        return canvas

    expected = np.zeros((8, 8), np.float32)
    for i, a in enumerate(corners):
        for j, b in enumerate(corners):
            union = (pixels(a) | pixels(b)).sum()
            expected[i, j] = (pixels(a) & pixels(b)).sum() / union if union else 0
    iou = pairwise_iou(Boxes(corners), Boxes(corners))
    torch.testing.assert_close(iou, torch.from_numpy(expected))
    assert pairwise_iou(Boxes([]), Boxes(corners)).shape == (0, 8)


def test_the_iou_of_two_points_is_zero_not_nan():
    point = Boxes([[1.0, 1.0, 1.0, 1.0]])
    assert pairwise_iou(point, point).tolist() == [[0.0]]


# BoxMode


@pytest.mark.parametrize("kind", [list, tuple])
def test_converting_a_box_keeps_its_kind(kind):
    converted = BoxMode.convert(kind([1, 2, 3, 4]), BoxMode.XYWH_ABS, BoxMode.XYXY_ABS)
    assert isinstance(converted, kind)
    assert list(converted) == [1, 2, 4, 6]


@pytest.mark.parametrize("make", [torch.tensor, np.array])
def test_converting_boxes_there_and_back_changes_nothing_and_copies(make):
    boxes = make(BOXES)
    there = BoxMode.convert(boxes, BoxMode.XYXY_ABS, BoxMode.XYWH_ABS)
    assert type(there) is type(boxes)
    assert there.tolist() == [[1, 2, 4, 7], [0, 0, 3, 3], [4, 4, 0, 4]]
    assert BoxMode.convert(there, BoxMode.XYWH_ABS, BoxMode.XYXY_ABS).tolist() == BOXES
    assert boxes.tolist() == BOXES


def test_equal_modes_give_the_very_same_object():
    box = [1, 2, 3, 4]
    assert BoxMode.convert(box, BoxMode.XYXY_ABS, BoxMode.XYXY_ABS) is box


def test_relative_modes_are_refused():
    with pytest.raises(AssertionError):
        BoxMode.convert([0.1, 0.2, 0.3, 0.4], BoxMode.XYXY_REL, BoxMode.XYXY_ABS)


@pytest.mark.fallback("detectron2")
def test_a_single_box_may_be_an_array():
    converted = BoxMode.convert(np.array([1.0, 2.0, 3.0, 4.0]), BoxMode.XYWH_ABS, BoxMode.XYXY_ABS)
    assert converted.tolist() == [1, 2, 4, 6]


# Instances


def make_instances() -> Instances:
    return Instances((10, 20), gt_boxes=Boxes(BOXES), gt_classes=torch.tensor([4, 5, 6]))


def test_the_first_field_fixes_the_length():
    instances = make_instances()
    with pytest.raises(AssertionError):
        instances.scores = torch.zeros(2)
    instances.scores = torch.zeros(3)
    assert len(instances) == 3


def test_fields_are_attributes_and_entries():
    instances = make_instances()
    assert instances.gt_classes is instances.get("gt_classes")
    assert instances.has("gt_boxes") and not instances.has("scores")
    with pytest.raises(AttributeError):
        instances.scores  # noqa: B018
    with pytest.raises(KeyError):
        instances.get("scores")
    instances.remove("gt_boxes")
    assert list(instances.get_fields()) == ["gt_classes"]


def test_underscored_attributes_are_no_fields():
    instances = make_instances()
    instances._note = "anything"
    assert list(instances.get_fields()) == ["gt_boxes", "gt_classes"]


@pytest.mark.parametrize(
    "index, expected",
    [
        (0, [4]),
        (-1, [6]),
        (-3, [4]),
        (slice(1, None), [5, 6]),
        (torch.tensor([True, False, True]), [4, 6]),
        (torch.tensor([2, 0]), [6, 4]),
        (np.array([1]), [5]),
    ],
)
def test_indexing_applies_to_every_field(index, expected):
    chosen = make_instances()[index]
    assert chosen.gt_classes.tolist() == expected
    assert chosen.gt_boxes.tensor.tolist() == [BOXES[i - 4] for i in expected]
    assert chosen.image_size == (10, 20)


def test_indexing_beyond_the_end_is_an_error():
    for index in (3, -4):
        with pytest.raises(IndexError):
            make_instances()[index]


def test_instances_without_fields_have_no_length_and_none_can_be_iterated():
    with pytest.raises(NotImplementedError):
        len(Instances((2, 2)))
    with pytest.raises(NotImplementedError):
        iter(make_instances())


def test_joining_instances_joins_tensors_lists_and_boxes():
    parts = [make_instances(), make_instances()[:1]]
    for part in parts:
        part.names = [str(number) for number in part.gt_classes.tolist()]
    joined = Instances.cat(parts)
    assert joined.gt_classes.tolist() == [4, 5, 6, 4]
    assert joined.names == ["4", "5", "6", "4"]
    assert joined.gt_boxes.tensor.tolist() == [*BOXES, BOXES[0]]
    assert Instances.cat(parts[:1]) is parts[0]


def test_joining_nothing_or_different_image_sizes_is_an_error():
    with pytest.raises(AssertionError):
        Instances.cat([])
    with pytest.raises(AssertionError):
        Instances.cat([make_instances(), Instances((1, 1), gt_boxes=Boxes([]), gt_classes=torch.zeros(0))])


def test_to_moves_what_can_be_moved():
    instances = Instances((2, 2), scores=torch.zeros(1), names=["a"])
    moved = instances.to("meta")
    assert moved.scores.device.type == "meta" and moved.names == ["a"]
    assert instances.scores.device.type == "cpu"


def test_instances_survive_copying_and_pickling():
    import copy
    import pickle

    for twin in (copy.deepcopy(make_instances()), pickle.loads(pickle.dumps(make_instances()))):
        assert twin.image_size == (10, 20)
        assert twin.gt_classes.tolist() == [4, 5, 6]


@pytest.mark.fallback("detectron2")
def test_the_image_size_cannot_be_assigned():
    with pytest.raises(AttributeError):
        make_instances().image_size = (1, 1)


@pytest.mark.fallback("detectron2")
def test_instances_without_fields_can_be_printed_and_asked():
    assert "no fields" in str(Instances((2, 2)))
    assert "gt_boxes" in make_instances() and "scores" not in make_instances()


# ImageList


def test_images_are_padded_at_the_right_and_the_bottom():
    images = [torch.rand(3, 4, 7), torch.rand(3, 6, 5)]
    batch = ImageList.from_tensors(images, pad_value=-1.0)
    expected = torch.full((2, 3, 6, 7), -1.0)
    expected[0, :, :4, :7], expected[1, :, :6, :5] = images
    assert torch.equal(batch.tensor, expected)
    assert [tuple(size) for size in batch.image_sizes] == [(4, 7), (6, 5)]
    assert all(torch.equal(batch[i], image) for i, image in enumerate(images))


@pytest.mark.parametrize(
    "options, expected_hw",
    [
        ({}, (30, 45)),
        ({"size_divisibility": 14}, (42, 56)),
        ({"size_divisibility": 15}, (30, 45)),
        ({"padding_constraints": {"square_size": 50}}, (50, 50)),
        ({"padding_constraints": {"square_size": 50, "size_divisibility": 32}}, (64, 64)),
        ({"size_divisibility": 14, "padding_constraints": {"size_divisibility": 32}}, (32, 64)),
        ({"size_divisibility": 14, "padding_constraints": {}}, (42, 56)),
    ],
)
def test_the_canvas_follows_the_constraints(options, expected_hw):
    batch = ImageList.from_tensors([torch.rand(3, 30, 20), torch.rand(3, 10, 45)], **options)
    assert batch.tensor.shape == (2, 3, *expected_hw)


def test_a_single_image_is_copied_and_keeps_its_dtype():
    image = torch.randint(0, 255, (3, 4, 5), dtype=torch.uint8)
    batch = ImageList.from_tensors([image])
    assert batch.tensor.dtype == torch.uint8 and batch.tensor.is_contiguous()
    batch.tensor.zero_()
    assert image.any()


def test_an_image_list_needs_images_of_one_kind():
    for wrong in ([], torch.rand(2, 3, 4, 4), [torch.rand(3, 4, 4), torch.rand(1, 4, 4)]):
        with pytest.raises(AssertionError):
            ImageList.from_tensors(wrong)


@pytest.mark.fallback("detectron2")
def test_a_square_smaller_than_an_image_is_an_error_not_a_crop():
    with pytest.raises(ValueError, match="30"):
        ImageList.from_tensors([torch.rand(3, 30, 45)], padding_constraints={"square_size": 40})


# Masks


def triangle_and_square() -> PolygonMasks:
    return PolygonMasks([[[1.0, 1.0, 9.0, 1.0, 9.0, 5.0]], [[2, 2, 6, 2, 6, 6, 2, 6], [8, 8, 9, 8, 9, 9.5]]])


def test_polygon_masks_know_their_areas_and_boxes():
    masks = triangle_and_square()
    assert masks.area().tolist() == [16.0, 16.75]
    assert masks.get_bounding_boxes().tensor.tolist() == [[1, 1, 9, 5], [2, 2, 9, 9.5]]


def test_polygon_masks_are_indexed_like_boxes():
    masks = triangle_and_square()
    assert len(masks[0]) == 1 and len(masks[:]) == 2
    assert masks[torch.tensor([False, True])].area().tolist() == [16.75]
    assert masks[torch.tensor([1, 0])].area().tolist() == [16.75, 16.0]
    assert len(masks[torch.zeros(2, dtype=torch.bool)]) == 0


@pytest.mark.parametrize("wrong", [[[[1.0, 2, 3, 4]]], [[[1.0, 2, 3, 4, 5, 6, 7]]], 5])
def test_malformed_polygons_are_refused(wrong):
    with pytest.raises(ValueError):
        PolygonMasks(wrong)


def test_an_instance_without_polygons_is_empty():
    assert PolygonMasks([[], [[0.0, 0, 4, 0, 4, 4]]]).nonempty().tolist() == [False, True]


@pytest.mark.fallback("detectron2")
def test_boxes_of_polygons_are_tight_for_negative_coordinates_and_zero_for_none():
    masks = PolygonMasks([[[-5.0, -4, -2, -4, -2, -1]], []])
    assert masks.get_bounding_boxes().tensor.tolist() == [[-5, -4, -2, -1], [0, 0, 0, 0]]


def test_bitmask_boxes_end_behind_the_last_pixel():
    tensor = torch.zeros(3, 8, 9, dtype=torch.bool)
    tensor[0, 2:5, 3:7] = True
    tensor[1, 7, 8] = True
    masks = BitMasks(tensor)
    assert masks.get_bounding_boxes().tensor.tolist() == [[3, 2, 7, 5], [8, 7, 9, 8], [0, 0, 0, 0]]
    assert masks.nonempty().tolist() == [True, True, False]
    assert masks[1].tensor.shape == (1, 8, 9) and tuple(masks.image_size) == (8, 9)


def test_a_polygon_is_rasterised_to_its_pixels():
    rectangle = [np.array([2.0, 1, 6, 1, 6, 4, 2, 4])]
    mask = polygons_to_bitmask(rectangle, 6, 8)
    expected = np.zeros((6, 8), bool)
    expected[1:4, 2:6] = True
    assert np.array_equal(mask, expected)
    assert not polygons_to_bitmask([], 6, 8).any()
    assert np.array_equal(BitMasks.from_polygon_masks([rectangle], 6, 8).tensor[0], expected)
