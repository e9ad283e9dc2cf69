"""The mapper: pictures and boxes go through the same transforms, and files of every kind come out as one sees them."""

import copy
import pickle

import detectron2.data.transforms as T
import numpy as np
import pytest
import torch
from detectron2.structures import BoxMode
from PIL import Image
from pycocotools import mask as coco_mask

from dinov2_detrex.data import DetrDatasetMapper, coco_dataset_dicts
from dinov2_detrex.data.errors import DatasetError

BOX_XYWH = [12, 6, 20, 16]


@pytest.fixture
def record(tmp_path):
    """A black 60 x 40 picture with one white box, exactly where its annotation says."""
    pixels = np.zeros((40, 60, 3), dtype=np.uint8)
    x, y, w, h = BOX_XYWH
    pixels[y : y + h, x : x + w] = 255
    Image.fromarray(pixels).save(tmp_path / "box.png")
    annotation = {"bbox": BOX_XYWH, "bbox_mode": BoxMode.XYWH_ABS, "category_id": 3, "iscrowd": 0}
    return {
        "file_name": str(tmp_path / "box.png"),
        "height": 40,
        "width": 60,
        "image_id": 5,
        "annotations": [annotation],
    }


def white_box(image):
    """XYXY of the white pixels of a (3, H, W) tensor."""
    rows, columns = np.nonzero(image[0].numpy() > 127)
    return [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


def resize(short, long=10_000):
    return T.ResizeShortestEdge((short,), max_size=long, sample_style="choice")


def test_without_augmentation_the_record_comes_out_as_it_is(record):
    mapped = DetrDatasetMapper([], None)(record)
    assert mapped["image"].dtype == torch.uint8 and mapped["image"].shape == (3, 40, 60)
    assert mapped["instances"].gt_boxes.tensor.tolist() == [[12, 6, 32, 22]]
    assert mapped["instances"].gt_classes.tolist() == [3] and mapped["instances"].image_size == (40, 60)
    assert {key: mapped[key] for key in ("file_name", "height", "width", "image_id")} == {
        key: record[key] for key in ("file_name", "height", "width", "image_id")
    }
    assert "annotations" not in mapped


@pytest.mark.parametrize(
    "augmentations",
    [
        [T.RandomFlip(1.0)],
        [T.RandomFlip(1.0, horizontal=False, vertical=True)],
        [resize(80)],
        [resize(55)],
        [T.RandomFlip(1.0), resize(100, 130)],
        [T.RandomCrop("absolute", (39, 58)), resize(64)],
    ],
    ids=["flip", "flip vertically", "twice", "odd size", "flip and resize", "crop and resize"],
)
def test_boxes_stay_on_their_objects(record, augmentations):
    mapped = DetrDatasetMapper(augmentations, None)(record)
    (box,) = mapped["instances"].gt_boxes.tensor.tolist()
    np.testing.assert_allclose(box, white_box(mapped["image"]), atol=1.0)
    assert mapped["instances"].image_size == tuple(mapped["image"].shape[1:])
    assert (mapped["height"], mapped["width"]) == (40, 60)  # the original size


def test_integer_boxes_are_not_truncated_by_resizing(record):
    """[1, 1, 3, 3] in XYWH, times 1.5, is (1.5, 1.5, 6, 6)."""
    record["annotations"][0]["bbox"] = [1, 1, 3, 3]
    mapped = DetrDatasetMapper([resize(60)], None)(record)
    assert mapped["instances"].gt_boxes.tensor.tolist() == [[1.5, 1.5, 6, 6]]


def test_the_argument_is_not_changed(record):
    before = copy.deepcopy(record)
    DetrDatasetMapper([T.RandomFlip(1.0), resize(80)], None)(record)
    assert record == before


def test_crowds_are_left_out_of_training(record):
    crowd = {"size": [40, 60], "counts": [0, 2400]}
    record["annotations"].append(record["annotations"][0] | {"iscrowd": 1, "segmentation": crowd, "category_id": 1})
    assert DetrDatasetMapper([], None)(record)["instances"].gt_classes.tolist() == [3]
    assert DetrDatasetMapper([], None, mask_on=False)(record)["instances"].has("gt_masks") is False


@pytest.mark.parametrize("what", ["none", "only a crowd", "cropped away", "without area"])
def test_an_image_without_objects_has_empty_instances(record, what):
    augmentations = []
    if what == "none":
        record["annotations"] = []
    elif what == "only a crowd":
        record["annotations"][0]["iscrowd"] = 1
    elif what == "without area":
        record["annotations"][0]["bbox"] = [5, 5, 0, 10]
    else:
        augmentations = [T.CropTransform(40, 0, 20, 40)]
    mapped = DetrDatasetMapper(augmentations, None)(record)
    assert len(mapped["instances"]) == 0 and mapped["instances"].gt_boxes.tensor.shape == (0, 4)
    assert mapped["instances"].gt_classes.dtype == torch.int64


def test_without_annotations_there_are_no_instances(record):
    del record["annotations"]
    assert "instances" not in DetrDatasetMapper([], None)(record)


def test_inference_drops_annotations_and_adds_nothing_else(record):
    mapped = DetrDatasetMapper([resize(80)], None, is_train=False)(record)
    assert sorted(mapped) == ["file_name", "height", "image", "image_id", "width"]
    assert mapped["image"].shape == (3, 80, 120)


def test_the_two_augmentation_lists_are_taken_equally_often(record):
    mapper = DetrDatasetMapper([], [resize(20)])
    np.random.seed(0)
    heights = [mapper(record)["image"].shape[1] for _ in range(200)]
    assert set(heights) == {20, 40} and 70 < heights.count(20) < 130


def test_the_same_seed_gives_the_same_picture(record):
    mapper = DetrDatasetMapper(
        [T.RandomFlip(), T.ResizeShortestEdge((30, 40, 50, 60), sample_style="choice")],
        [T.RandomCrop("absolute_range", (20, 30)), resize(40)],
    )

    def run(seed):
        np.random.seed(seed)
        return [mapper(record)["image"] for _ in range(5)]

    assert all(torch.equal(a, b) for a, b in zip(run(1), run(1)))
    assert not all(a.shape == b.shape and torch.equal(a, b) for a, b in zip(run(1), run(2)))


def test_keypoints_and_segmentations_are_dropped_unless_asked_for(record):
    x, y, w, h = BOX_XYWH
    polygon = [x, y, x + w, y, x + w, y + h, x, y + h]
    record["annotations"][0] |= {"segmentation": [polygon], "keypoints": [1, 2, 2]}
    assert not DetrDatasetMapper([], None)(record)["instances"].has("gt_masks")
    masks = DetrDatasetMapper([resize(80)], None, mask_on=True)(record)["instances"].gt_masks
    assert masks.get_bounding_boxes().tensor.tolist() == [[24, 12, 64, 44]]


def test_bgr_is_rgb_backwards(record):
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8)).save(record["file_name"])
    rgb, bgr = (DetrDatasetMapper([], None, img_format=order)(record)["image"] for order in ("RGB", "BGR"))
    assert torch.equal(bgr, rgb.flip(0)) and not torch.equal(bgr, rgb)


@pytest.mark.parametrize("kind", ["L", "LA", "RGBA", "CMYK", "P", "1", "I;16"])
def test_any_kind_of_file_is_mapped_to_what_one_sees(record, kind):
    """The white box on black, saved in every mode that Pillow knows for photographs."""
    with Image.open(record["file_name"]) as picture:
        if kind == "I;16":
            picture = Image.fromarray(np.asarray(picture.convert("L")).astype(np.uint16) * 257)
        else:
            picture = picture.convert(kind)
        record["file_name"] = record["file_name"].replace("box.png", "box.tif")
        picture.save(record["file_name"])
    expected = np.zeros((3, 40, 60), dtype=np.uint8)
    expected[:, 6:22, 12:32] = 255
    np.testing.assert_array_equal(DetrDatasetMapper([], None)(record)["image"].numpy(), expected)


def test_an_exif_rotated_file_is_upright_and_its_boxes_fit(record, tmp_path):
    """Stored lying, 40 x 60; seen, and annotated, as 60 x 40."""
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(record["file_name"]) as picture:
        picture.rotate(90, expand=True).save(tmp_path / "lying.jpg", exif=exif, quality=95)
    record["file_name"] = str(tmp_path / "lying.jpg")
    mapped = DetrDatasetMapper([resize(80)], None)(record)
    np.testing.assert_allclose(mapped["instances"].gt_boxes.tensor[0], white_box(mapped["image"]), atol=1.0)


@pytest.mark.parametrize("is_train", [True, False])
def test_a_truncated_file_is_an_error_that_names_it(record, tmp_path, is_train):
    noise = np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "half.jpg")
    content = (tmp_path / "half.jpg").read_bytes()
    (tmp_path / "half.jpg").write_bytes(content[: len(content) // 2])
    record["file_name"] = str(tmp_path / "half.jpg")
    with pytest.raises(OSError, match="half.jpg"):
        DetrDatasetMapper([], None, is_train=is_train)(record)


def test_another_size_than_the_record_says_is_an_error_that_names_the_file(record):
    record["width"] = 61
    with pytest.raises(ValueError, match="box.png") as caught:
        DetrDatasetMapper([], None)(record)
    assert "61" in str(caught.value) and "60" in str(caught.value)


@pytest.mark.parametrize("absent", [["height"], ["width"], ["height", "width"]])
def test_sizes_that_the_record_lacks_are_filled_in(record, absent):
    for key in absent:
        del record[key]
    mapped = DetrDatasetMapper([], None)(record)
    assert (mapped["height"], mapped["width"]) == (40, 60)


def test_it_can_be_sent_to_workers(record):
    mapper = pickle.loads(pickle.dumps(DetrDatasetMapper([resize(80)], [T.RandomFlip(1.0)])))
    assert mapper(record)["image"].shape[0] == 3


def test_a_loader_with_workers_gives_the_same_pictures(sound_coco):
    """Records are serialised once and shared; nothing that a worker changes comes back."""
    from detectron2.data import build_detection_test_loader

    records = coco_dataset_dicts("mapper_test_set", str(sound_coco.json_file), str(sound_coco.images))
    mapper = DetrDatasetMapper([resize(32)], None, is_train=False)
    with_workers, without = (
        [item for batch in build_detection_test_loader(records, mapper=mapper, num_workers=n) for item in batch]
        for n in (2, 0)
    )
    assert len(with_workers) == len(without) == 2
    assert all(torch.equal(a["image"], b["image"]) for a, b in zip(with_workers, without))
    assert all("annotations" in record for record in records)


# ------------------------------------------------------------------------------------------------------------ masks


def rle(record):
    """The object of `record` as pycocotools' run-length encoding."""
    mask = np.zeros((record["height"], record["width"]), dtype=np.uint8)
    x, y, w, h = BOX_XYWH
    mask[y : y + h, x : x + w] = 1
    encoded = coco_mask.encode(np.asfortranarray(mask))
    return {"size": encoded["size"], "counts": encoded["counts"].decode()}


def polygon():
    x, y, w, h = BOX_XYWH
    return [[x, y, x + w, y, x + w, y + h, x, y + h]]


def with_masks(record, *masks):
    record["annotations"] = [record["annotations"][0] | {"segmentation": mask} for mask in masks]
    return record


@pytest.mark.parametrize("augmentations", [[], [T.RandomFlip(1.0)], [resize(80)]], ids=["as it is", "flip", "twice"])
def test_polygons_and_rle_stay_on_their_objects_side_by_side(record, augmentations):
    mapper = DetrDatasetMapper(augmentations, None, mask_on=True, mask_format="bitmask")
    mapped = mapper(with_masks(record, polygon(), rle(record)))
    white = mapped["image"][0] > 127
    for mask in mapped["instances"].gt_masks.tensor:
        assert (mask != white).float().mean() < 0.02 and mask.sum() > 100


def test_recomputed_boxes_are_those_of_the_masks(record):
    x, y, w, h = BOX_XYWH
    triangle = [[x + 4, y + 4, x + w, y + 4, x + 4, y + h]]  # smaller than its box
    loose, tight = (
        DetrDatasetMapper([], None, mask_on=True, recompute_boxes=recompute)(with_masks(record, triangle))
        for recompute in (False, True)
    )
    assert loose["instances"].gt_boxes.tensor.tolist() == [[x, y, x + w, y + h]]
    assert tight["instances"].gt_boxes.tensor.tolist() == [[x + 4, y + 4, x + w, y + h]]


def test_an_object_without_a_mask_names_the_file_and_its_box(record):
    mapper = DetrDatasetMapper([], None, mask_on=True)
    with pytest.raises(DatasetError, match=r"box\.png: the object with the box \[12, 6, 20, 16\] has no segmentation"):
        mapper(record)


def test_rle_where_polygons_are_asked_for_names_the_option(record):
    with pytest.raises(DatasetError, match="mask_format=bitmask"):
        DetrDatasetMapper([], None, mask_on=True)(with_masks(record, rle(record)))


def test_a_crowd_needs_no_mask(record):
    record["annotations"].append(record["annotations"][0] | {"iscrowd": 1})
    record["annotations"][0] |= {"segmentation": polygon()}
    assert len(DetrDatasetMapper([], None, mask_on=True)(record)["instances"]) == 1


def test_an_unknown_mask_format_is_refused():
    with pytest.raises(ValueError, match="mask_format='rle'"):
        DetrDatasetMapper([], None, mask_on=True, mask_format="rle")
