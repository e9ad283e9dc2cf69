"""What transforms do to images, boxes and polygons, and how augmentations choose them."""

import detectron2.data.transforms as T
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from PIL import Image

RNG = np.random.RandomState(0)
IMAGE = RNG.randint(0, 256, (24, 37, 3), dtype=np.uint8)


def apply_to_image(augmentation, image=IMAGE):
    """(augmented image, transform) of one augmentation."""
    aug_input = T.AugInput(image)
    transform = augmentation(aug_input)
    return aug_input.image, transform


# Geometry


def test_a_horizontal_flip_mirrors_image_and_boxes():
    flip = T.HFlipTransform(37)
    assert np.array_equal(flip.apply_image(IMAGE), IMAGE[:, ::-1])
    assert flip.apply_box(np.array([[1.0, 2.0, 5.0, 9.0]])).tolist() == [[32, 2, 36, 9]]


def test_a_vertical_flip_mirrors_image_and_boxes():
    flip = T.VFlipTransform(24)
    assert np.array_equal(flip.apply_image(IMAGE), IMAGE[::-1])
    assert flip.apply_box([[1.0, 2.0, 5.0, 9.0]]).tolist() == [[1, 15, 5, 22]]


def test_resizing_uint8_is_pillows_bilinear():
    resized = T.ResizeTransform(24, 37, 11, 50).apply_image(IMAGE)
    assert np.array_equal(resized, np.asarray(Image.fromarray(IMAGE).resize((50, 11), Image.BILINEAR)))


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("shape", [(24, 37), (24, 37, 1), (24, 37, 3)])
def test_resizing_keeps_dtype_and_number_of_dimensions(dtype, shape):
    resized = T.ResizeTransform(24, 37, 12, 20).apply_image(np.ones(shape, dtype=dtype))
    assert resized.shape == (12, 20, *shape[2:]) and resized.dtype == dtype
    assert (resized == 1).all()


def test_resizing_labels_invents_no_label():
    labels = RNG.choice([0, 7, 250], (24, 37)).astype(np.uint8)
    resized = T.ResizeTransform(24, 37, 51, 60).apply_segmentation(labels)
    assert resized.shape == (51, 60) and set(np.unique(resized)) <= {0, 7, 250}


@pytest.mark.fallback("detectron2")
@pytest.mark.parametrize("dtype", [bool, np.int64])
def test_resizing_keeps_integer_and_boolean_labels(dtype):
    labels = RNG.randint(0, 2, (24, 37)).astype(dtype)
    resized = T.ResizeTransform(24, 37, 48, 74).apply_segmentation(labels)
    assert resized.dtype == dtype and np.array_equal(resized[::2, ::2], labels)


def test_resizing_scales_boxes_and_checks_the_image():
    resize = T.ResizeTransform(24, 37, 48, 74)
    assert resize.apply_box(np.array([[1.0, 2.0, 5.0, 9.0]])).tolist() == [[2, 4, 10, 18]]
    assert resize.inverse().apply_box(np.array([[2.0, 4.0, 10.0, 18.0]])).tolist() == [[1, 2, 5, 9]]
    with pytest.raises(AssertionError):
        resize.apply_image(IMAGE[1:])


@pytest.mark.fallback("detectron2")
def test_integer_coordinates_are_scaled_without_truncation():
    resize, corners = T.ResizeTransform(10, 10, 15, 15), np.array([[1, 3]])
    assert resize.apply_coords(corners).tolist() == [[1.5, 4.5]] and corners.tolist() == [[1, 3]]
    assert resize.apply_box([[1, 1, 3, 3]]).tolist() == [[1.5, 1.5, 4.5, 4.5]]


def test_a_crop_shifts_boxes_without_clipping_and_its_inverse_pads():
    crop = T.CropTransform(4, 3, 20, 10, orig_w=37, orig_h=24)
    assert np.array_equal(crop.apply_image(IMAGE), IMAGE[3:13, 4:24])
    assert crop.apply_box(np.array([[0.0, 0.0, 37.0, 24.0]])).tolist() == [[-4, -3, 33, 21]]
    restored = crop.inverse().apply_image(crop.apply_image(IMAGE))
    assert restored.shape == IMAGE.shape
    assert np.array_equal(restored[3:13, 4:24], IMAGE[3:13, 4:24]) and restored.sum() == IMAGE[3:13, 4:24].sum()


def test_a_crop_beyond_the_border_is_just_shorter():
    assert T.CropTransform(30, 20, 50, 50).apply_image(IMAGE).shape == (4, 7, 3)


def test_padding_fills_image_and_labels_with_their_own_values():
    pad = T.PadTransform(1, 2, 3, 4, orig_w=37, orig_h=24, pad_value=9, seg_pad_value=255)
    padded = pad.apply_image(IMAGE)
    assert padded.shape == (30, 41, 3) and padded[0, 0].tolist() == [9, 9, 9]
    assert pad.apply_segmentation(IMAGE[:, :, 0])[-1, -1] == 255
    assert pad.apply_box(np.array([[0.0, 0, 1, 1]])).tolist() == [[1, 2, 2, 3]]
    assert np.array_equal(pad.inverse().apply_image(padded), IMAGE)


@pytest.mark.fallback("detectron2")
def test_the_inverse_of_a_padding_cuts_polygons():
    crop = T.PadTransform(5, 5, 5, 5, orig_w=10, orig_h=10).inverse()
    (piece,) = crop.apply_polygons([np.array([[0.0, 0], [20, 0], [20, 20], [0, 20]])])
    assert piece.min() == 0 and piece.max() == 10


def test_nothing_is_what_the_no_op_does():
    nothing = T.NoOpTransform()
    assert nothing.apply_image(IMAGE) is IMAGE and nothing.inverse() is nothing
    with pytest.raises(AttributeError):
        nothing.weight  # noqa: B018


def test_a_list_of_transforms_is_flat_applies_in_order_and_inverts_backwards():
    inner = T.TransformList([T.HFlipTransform(37), T.CropTransform(2, 0, 30, 24, 37, 24)])
    both = T.TransformList([inner, T.ResizeTransform(24, 30, 48, 60)])
    assert [type(t).__name__ for t in both.transforms] == ["HFlipTransform", "CropTransform", "ResizeTransform"]
    box = np.array([[3.0, 4, 10, 12]])
    there = both.apply_box(box)
    assert there.tolist() == [[2 * (37 - 10 - 2), 8, 2 * (37 - 3 - 2), 24]]
    np.testing.assert_allclose(both.inverse().apply_box(there), box)
    with pytest.raises(AssertionError):
        T.TransformList([T.RandomFlip()])


def test_colour_transforms_leave_coordinates_alone():
    inverted = T.PILColorTransform(lambda picture: picture.point(lambda value: 255 - value))
    for transform in (T.ColorTransform(lambda pixels: 255 - pixels), inverted):
        assert np.array_equal(transform.apply_image(IMAGE), 255 - IMAGE)
        assert transform.apply_box(np.array([[1.0, 2, 3, 4]])).tolist() == [[1, 2, 3, 4]]
        assert transform.apply_segmentation(IMAGE) is IMAGE


def test_blending_clips_uint8():
    blended = T.BlendTransform(src_image=np.float32(255), src_weight=1.0, dst_weight=1.0).apply_image(IMAGE)
    assert blended.dtype == np.uint8 and (blended == 255).all()


def test_a_new_kind_of_data_can_be_registered():
    T.HFlipTransform.register_type("columns", lambda transform, columns: [transform.width - c for c in columns])
    assert T.TransformList([T.HFlipTransform(10), T.HFlipTransform(10)]).apply_columns([3]) == [3]
    assert T.HFlipTransform(10).apply_columns([3]) == [7]


# Polygons under a crop: the original needs shapely for it


def rasterise(polygons, height, width):
    """Union of polygons by the sign rule of the even-odd test at pixel centres, on a fine grid."""
    from matplotlib.path import Path

    ys, xs = np.mgrid[0:height, 0:width]
    centres = np.stack([xs.ravel() + 0.5, ys.ravel() + 0.5], axis=1)
    inside = np.zeros(height * width, bool)
    for polygon in polygons:
        inside ^= Path(polygon).contains_points(centres)
    return inside.reshape(height, width)


@pytest.mark.fallback("detectron2")
@settings(max_examples=150, derandomize=True)
@given(st.integers(0, 10_000))
def test_a_cropped_polygon_covers_what_the_window_sees(seed):
    rng = np.random.RandomState(seed)
    angles = np.sort(rng.uniform(0, 2 * np.pi, rng.randint(3, 12)))
    radii = rng.uniform(3, 30, len(angles))  # a star: concave, without crossings
    polygon = np.stack([24 + radii * np.cos(angles), 20 + radii * np.sin(angles)], axis=1) + rng.uniform(0, 0.01, 2)
    if np.diff(np.append(angles, angles[0] + 2 * np.pi)).max() > np.pi:
        polygon = polygon[::-1]
    x0, y0, w, h = rng.randint(0, 30), rng.randint(0, 30), rng.randint(1, 20), rng.randint(1, 20)
    pieces = T.CropTransform(x0, y0, w, h).apply_polygons([polygon.copy()])
    expected = rasterise([polygon], 60, 60)[y0 : y0 + h, x0 : x0 + w]
    assert np.array_equal(rasterise(pieces, h, w), expected)
    for piece in pieces:
        assert piece.min() >= 0 and piece[:, 0].max() <= w and piece[:, 1].max() <= h


@pytest.mark.fallback("detectron2")
def test_a_polygon_around_a_corner_leaves_no_spur_in_the_window():
    hook = [[-5.0, 40], [-5, -5], [40, -5], [40, -2], [-2, -2], [-2, 20], [4, 20], [4, 30], [-2, 30], [-2, 40]]
    (piece,) = T.CropTransform(0, 0, 50, 50).apply_polygons([np.array(hook)])
    assert [*piece.min(axis=0), *piece.max(axis=0)] == [0, 20, 4, 30]


@pytest.mark.fallback("detectron2")
def test_a_concave_polygon_falls_into_pieces():
    comb = np.array([[0.0, 0], [10, 0], [10, 10], [7, 10], [7, 3], [3, 3], [3, 10], [0, 10]])
    pieces = T.CropTransform(0, 5, 20, 20).apply_polygons([comb])
    assert sorted(piece[:, 0].min() for piece in pieces) == [0, 7]
    assert T.CropTransform(4, 5, 2, 4).apply_polygons([comb]) == []


# Augmentations


@pytest.mark.parametrize(
    "image_hw, short, longest, expected",
    [
        ((427, 640), 800, 1333, (800, 1199)),
        ((480, 640), 518, 518, (389, 518)),
        ((333, 500), 800, 1333, (800, 1201)),
        ((640, 427), 800, 1333, (1199, 800)),
    ],
)
def test_the_short_edge_decides_unless_the_long_one_is_too_long(image_hw, short, longest, expected):
    assert T.ResizeShortestEdge.get_output_shape(*image_hw, short, longest) == expected
    image, _ = apply_to_image(T.ResizeShortestEdge(short, longest), np.zeros((*image_hw, 3), np.uint8))
    assert image.shape[:2] == expected


def test_short_edges_are_drawn_from_the_range_with_both_ends_or_from_the_choices():
    np.random.seed(0)
    in_range = {min(apply_to_image(T.ResizeShortestEdge((20, 23)))[0].shape[:2]) for _ in range(80)}
    assert in_range == {20, 21, 22, 23}
    choice = T.ResizeShortestEdge((20, 30, 50), sample_style="choice")
    assert {min(apply_to_image(choice)[0].shape[:2]) for _ in range(40)} == {20, 30, 50}


def test_a_short_edge_of_zero_changes_nothing_and_wrong_arguments_assert():
    assert np.array_equal(apply_to_image(T.ResizeShortestEdge(0))[0], IMAGE)
    with pytest.raises(AssertionError):
        T.ResizeShortestEdge((1, 2, 3))
    with pytest.raises(AssertionError):
        T.ResizeShortestEdge(3, sample_style="mean")


def test_a_flip_happens_with_its_probability_and_in_one_direction():
    np.random.seed(0)
    flipped = sum(isinstance(apply_to_image(T.RandomFlip(0.3))[1], T.HFlipTransform) for _ in range(1000))
    assert 250 < flipped < 350
    assert isinstance(apply_to_image(T.RandomFlip(1.0, horizontal=False, vertical=True))[1], T.VFlipTransform)
    for both in (True, False):
        with pytest.raises(ValueError):
            T.RandomFlip(horizontal=both, vertical=both)


@pytest.mark.parametrize(
    "crop_type, crop_size, heights, widths",
    [
        ("absolute", (10, 100), {10}, {37}),
        ("relative", (0.5, 0.25), {12}, {9}),
        ("absolute_range", (22, 30), {22, 23, 24}, set(range(22, 31))),
        ("relative_range", (0.9, 0.9), {22, 23, 24}, {33, 34, 35, 36, 37}),
    ],
)
def test_the_window_of_a_random_crop(crop_type, crop_size, heights, widths):
    np.random.seed(0)
    crop = T.RandomCrop(crop_type, crop_size)
    transforms = [apply_to_image(crop)[1] for _ in range(300)]
    assert {t.h for t in transforms} == heights and {t.w for t in transforms} == widths
    assert all(0 <= t.x0 <= 37 - t.w and 0 <= t.y0 <= 24 - t.h for t in transforms)
    tightest = [t for t in transforms if t.w == min(widths)]
    assert len({t.x0 for t in tightest}) == 37 - min(widths) + 1 or len(tightest) < 100


def test_an_unknown_crop_type_asserts():
    with pytest.raises(AssertionError):
        T.RandomCrop("circle", (1, 1))


def test_large_scale_jitter_ends_at_its_fixed_size():
    np.random.seed(0)
    augmentations = [T.ResizeScale(0.1, 2.0, 64, 64), T.FixedSizeCrop((64, 64))]
    for _ in range(20):
        image, transforms = T.apply_augmentations(augmentations, np.zeros_like(IMAGE))
        assert image.shape == (64, 64, 3)
        resize = transforms[0]
        assert abs(resize.new_h / 24 - resize.new_w / 37) < 0.04  # the aspect ratio, up to rounding
        seen_h, seen_w = min(64, resize.new_h), min(64, resize.new_w)
        assert (image[:seen_h, :seen_w] == 0).all()
        assert (image[seen_h:] == 128).all() and (image[:, seen_w:] == 128).all()


def test_a_fixed_size_crop_pads_with_grey_at_the_right_and_the_bottom_and_may_leave_it():
    image, _ = apply_to_image(T.FixedSizeCrop((30, 40)))
    assert image.shape == (30, 40, 3) and np.array_equal(image[:24, :37], IMAGE)
    assert (image[24:] == 128).all() and (image[:, 37:] == 128).all()
    assert apply_to_image(T.FixedSizeCrop((30, 20), pad=False))[0].shape == (24, 20, 3)


def test_a_fixed_size_crop_moves_along_the_diagonal():
    np.random.seed(0)
    crops = [apply_to_image(T.FixedSizeCrop((14, 17)))[1].transforms[0] for _ in range(200)]
    assert {crop.y0 for crop in crops} == set(range(11))  # 24 - 14
    assert all(abs(crop.y0 / 10 - crop.x0 / 20) <= 0.5 / 10 + 0.5 / 20 for crop in crops)  # 37 - 17; both rounded


def test_resize_takes_a_side_or_two():
    assert apply_to_image(T.Resize(20))[0].shape == (20, 20, 3)
    assert apply_to_image(T.Resize((20, 30)))[0].shape == (20, 30, 3)


@pytest.mark.parametrize(
    "make, expected",
    [
        (lambda w: T.RandomBrightness(w, w), lambda image, w: w * image),
        (lambda w: T.RandomContrast(w, w), lambda image, w: w * image + (1 - w) * image.mean()),
        (
            lambda w: T.RandomSaturation(w, w),
            lambda image, w: w * image + (1 - w) * (image @ [0.299, 0.587, 0.114])[..., None],
        ),
    ],
)
@pytest.mark.parametrize("w", [0.6, 1.0, 1.7])
def test_colour_jitter_blends_with_black_grey_or_luma(make, expected, w):
    image, transform = apply_to_image(make(w))
    wanted = np.clip(expected(IMAGE.astype(np.float64), w), 0, 255)
    assert image.dtype == np.uint8 and np.abs(image - wanted).max() <= 1
    assert transform.apply_coords(np.array([[1.0, 2.0]])).tolist() == [[1, 2]]


def test_an_augmentation_is_applied_with_its_probability():
    np.random.seed(0)
    sometimes = T.RandomApply(T.Resize(10), prob=0.3)
    applied = sum(apply_to_image(sometimes)[0].shape[0] == 10 for _ in range(500))
    assert 110 < applied < 190
    assert isinstance(apply_to_image(T.RandomApply(T.HFlipTransform(37), 1.0))[1], T.HFlipTransform)


@pytest.mark.parametrize("prob, kind", [(0.0, T.NoOpTransform), (1.0, T.HFlipTransform)])
def test_a_random_application_can_be_asked_with_plain_arrays(prob, kind):
    assert isinstance(T.RandomApply(T.RandomFlip(1.0), prob).get_transform(IMAGE), kind)


def test_all_randomness_is_numpys():
    augmentations = [T.RandomFlip(), T.RandomCrop("relative_range", (0.3, 0.3)), T.RandomBrightness(0.5, 1.5)]
    np.random.seed(7)
    first, _ = T.apply_augmentations(augmentations, IMAGE)
    np.random.seed(7)
    second, _ = T.apply_augmentations(augmentations, IMAGE)
    assert np.array_equal(first, second)


def test_sizes_may_come_from_a_config():
    sizes = OmegaConf.create({"edges": [20, 30], "crop": [10, 12], "one": [16, 18]})
    edges, crop, one = sizes.edges, sizes.crop, sizes.one
    augmentations = [
        T.ResizeShortestEdge(edges, sample_style="choice"),
        T.RandomCrop("absolute", crop),
        T.Resize(one),
        T.FixedSizeCrop(crop),
    ]
    assert T.apply_augmentations(augmentations, IMAGE)[0].shape == (10, 12, 3)


# The protocol


class CropAroundFirstBox(T.Augmentation):
    def get_transform(self, image, boxes):
        x0, y0, x1, y1 = boxes[0].astype(int)
        return T.CropTransform(x0, y0, x1 - x0, y1 - y0)


class AnyName(T.Augmentation):
    def get_transform(self, picture):
        return T.HFlipTransform(picture.shape[1])


def test_an_augmentation_sees_what_its_parameters_name():
    aug_input = T.AugInput(IMAGE, boxes=np.array([[3.0, 4, 13, 10]]), sem_seg=IMAGE[:, :, 0])
    transforms = aug_input.apply_augmentations([AnyName(), CropAroundFirstBox(), T.HFlipTransform(10)])
    assert aug_input.image.shape == (6, 10, 3) and aug_input.sem_seg.shape == (6, 10)
    assert aug_input.boxes.tolist() == [[0, 0, 10, 6]]
    assert len(transforms) == 3


def test_what_an_augmentation_cannot_get_or_must_not_do_is_an_error():
    class Wants(T.Augmentation):
        def get_transform(self, image, depth):
            return T.NoOpTransform()

    class Variadic(T.Augmentation):
        def get_transform(self, image, *others):
            return T.NoOpTransform()

    class Forgets(T.Augmentation):
        def get_transform(self, image):
            return image

    for augmentation, error in ((Wants(), AttributeError), (Variadic(), TypeError), (Forgets(), AssertionError)):
        with pytest.raises(error):
            augmentation(T.AugInput(IMAGE))


def test_a_list_of_augmentations_mixes_with_transforms_and_gives_a_transform_list():
    augmentations = T.AugmentationList([T.Resize(20), T.HFlipTransform(20), T.AugmentationList([T.Resize(8)])])
    aug_input = T.AugInput(IMAGE)
    transforms = augmentations(aug_input)
    assert isinstance(transforms, T.TransformList) and len(transforms) == 3
    assert np.array_equal(transforms.apply_image(IMAGE), aug_input.image)


def test_applying_to_an_image_or_to_an_input():
    image, transforms = T.apply_transform_gens([T.Resize(9)], IMAGE)
    assert image.shape == (9, 9, 3) and len(transforms) == 1
    aug_input = T.AugInput(IMAGE)
    assert T.apply_augmentations([T.Resize(9)], aug_input)[0] is aug_input
    with pytest.raises(AssertionError):
        T.AugInput(IMAGE[None])
    with pytest.raises(AssertionError):
        T.AugInput([[1]])


def test_an_augmentation_shows_what_is_not_default():
    assert repr(T.RandomFlip(prob=0.25)) == "RandomFlip(prob=0.25)"
    assert repr(T.RandomCrop("absolute", (3, 4))) == "RandomCrop(crop_type='absolute', crop_size=(3, 4))"
