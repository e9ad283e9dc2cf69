"""From files and records to batches: reading images, mapping annotations, loading with and without workers."""

import copy
import itertools
import logging
import pickle
import random

import detectron2.data.transforms as T
import numpy as np
import pytest
import torch
from detectron2.data import (
    DatasetCatalog,
    DatasetFromList,
    DatasetMapper,
    MapDataset,
    MetadataCatalog,
    build_detection_test_loader,
    build_detection_train_loader,
    get_detection_dataset_dicts,
)
from detectron2.data import detection_utils as utils
from detectron2.data.common import AspectRatioGroupedDataset
from detectron2.data.datasets import load_coco_json, register_coco_instances
from detectron2.data.samplers import TrainingSampler
from detectron2.structures import BitMasks, BoxMode, PolygonMasks
from engine.small_coco import coco_content, write_coco
from PIL import Image
from torch.utils.data import Dataset, IterableDataset, get_worker_info

# Reading images

PIXELS = np.random.RandomState(0).randint(0, 256, (6, 9, 3), dtype=np.uint8)


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "picture.png"
    Image.fromarray(PIXELS).save(path)
    return str(path)


def test_images_are_read_in_the_channel_order_asked_for(picture):
    assert np.array_equal(utils.read_image(picture, "RGB"), PIXELS)
    assert np.array_equal(utils.read_image(picture, "BGR"), PIXELS[:, :, ::-1])
    assert utils.read_image(picture, "L").shape == (6, 9, 1)
    assert utils.read_image(picture, "RGB").dtype == np.uint8
    with pytest.raises(ValueError):
        utils.read_image(picture, "XYZW")


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "1"])
def test_files_of_other_modes_become_rgb(tmp_path, mode):
    path = tmp_path / ("picture.tiff" if mode == "CMYK" else "picture.png")
    Image.fromarray(PIXELS).convert(mode).save(path)
    read = utils.read_image(str(path), "RGB")
    assert read.shape == (6, 9, 3) and read.dtype == np.uint8
    assert np.array_equal(read, np.asarray(Image.open(path).convert("RGB")))


# the picture as it must be seen, from the picture as it is stored (Exif 2.3, tag 0x0112)
UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: a.transpose(1, 0, 2)[:, ::-1],
    7: lambda a: a.transpose(1, 0, 2)[::-1, ::-1],
    8: lambda a: a.transpose(1, 0, 2)[::-1],
}


@pytest.mark.parametrize("orientation", sorted(UPRIGHT))
def test_exif_orientation_is_applied(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "turned.png"
    Image.fromarray(PIXELS).save(path, exif=exif)
    assert np.array_equal(utils.read_image(str(path), "RGB"), UPRIGHT[orientation](PIXELS))


def test_unreadable_exif_is_ignored(tmp_path):
    path = tmp_path / "odd.png"
    Image.fromarray(PIXELS).save(path, exif=b"Exif\x00\x00MM\x00*garbage that is no directory")
    assert np.array_equal(utils.read_image(str(path), "RGB"), PIXELS)


def test_what_is_no_image_is_an_error_that_names_the_file(tmp_path, picture):
    with pytest.raises(FileNotFoundError):
        utils.read_image(str(tmp_path / "no.png"), "RGB")
    (tmp_path / "text.png").write_text("not a picture")
    with pytest.raises(Image.UnidentifiedImageError, match="text.png"):
        utils.read_image(str(tmp_path / "text.png"), "RGB")


@pytest.mark.fallback("detectron2")
def test_a_truncated_file_is_an_error_that_names_it(tmp_path):
    noise = np.random.RandomState(0).randint(0, 256, (64, 64, 3), dtype=np.uint8)
    path = tmp_path / "half.jpg"
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(OSError, match="half.jpg"):
        utils.read_image(str(path), "RGB")


@pytest.mark.fallback("detectron2")
def test_sixteen_bit_greys_are_scaled_not_saturated(tmp_path):
    values = np.array([[0, 257, 25700, 65535]], dtype=np.uint16)
    path = tmp_path / "deep.png"
    Image.fromarray(values).save(path)
    assert utils.read_image(str(path), "RGB")[0, :, 0].tolist() == [0, 1, 100, 255]


def test_images_are_converted_to_rgb_for_drawing(picture):
    for image_format in ("RGB", "BGR"):
        read = utils.read_image(picture, image_format)
        assert np.array_equal(utils.convert_image_to_rgb(read, image_format), PIXELS)
    tensor = torch.from_numpy(PIXELS)
    assert np.array_equal(utils.convert_image_to_rgb(tensor, "RGB"), PIXELS)
    assert utils.convert_image_to_rgb(utils.read_image(picture, "L"), "L").shape == (6, 9, 3)


def test_the_size_of_the_record_is_checked_or_filled_in():
    record = {"file_name": "x.png", "width": 9, "height": 7}
    with pytest.raises(utils.SizeMismatchError, match="x.png"):
        utils.check_image_size(record, PIXELS)
    assert issubclass(utils.SizeMismatchError, ValueError)
    record = {}
    utils.check_image_size(record, PIXELS)
    assert record == {"width": 9, "height": 6}


@pytest.mark.fallback("detectron2")
def test_a_record_with_one_side_only_is_completed():
    record = {"width": 9}
    utils.check_image_size(record, PIXELS)
    assert record == {"width": 9, "height": 6}


# Annotations


def annotation(bbox, mode=BoxMode.XYWH_ABS, **extra):
    return {"bbox": bbox, "bbox_mode": mode, "category_id": 2, **extra}


def test_a_box_is_transformed_and_clipped_to_the_image():
    transforms = T.TransformList([T.HFlipTransform(20), T.ResizeTransform(10, 20, 20, 40)])
    source = annotation([-3.0, 2.0, 8.0, 20.0])
    result = utils.transform_instance_annotations(source, transforms, (20, 40))
    assert result is source and result["bbox_mode"] == BoxMode.XYXY_ABS
    assert result["bbox"].tolist() == [30, 4, 40, 20]
    assert utils.transform_instance_annotations(annotation([1.0, 1, 2, 2]), [T.NoOpTransform()], (20, 40))[
        "bbox"
    ].tolist() == [1, 1, 3, 3]


@pytest.mark.fallback("detectron2")
def test_integer_boxes_are_not_truncated():
    resize = T.ResizeTransform(10, 10, 15, 15)
    result = utils.transform_instance_annotations(annotation([1, 1, 3, 3]), resize, (15, 15))
    assert result["bbox"].tolist() == [1.5, 1.5, 6, 6]


def test_polygons_and_run_lengths_follow_the_image():
    from pycocotools import mask as coco_mask

    flip = T.HFlipTransform(20)
    polygon = annotation([2.0, 2, 6, 6], segmentation=[[2.0, 2, 8, 2, 8, 8]])
    (flat,) = utils.transform_instance_annotations(polygon, flip, (10, 20))["segmentation"]
    assert flat.tolist() == [18, 2, 12, 2, 12, 8]
    mask = np.zeros((10, 20), np.uint8, order="F")
    mask[2:8, 3:5] = 1
    encoded = annotation([3.0, 2, 2, 6], segmentation=coco_mask.encode(mask))
    result = utils.transform_instance_annotations(encoded, flip, (10, 20))["segmentation"]
    assert np.array_equal(result, mask[:, ::-1])
    with pytest.raises(AssertionError):
        again = annotation([3.0, 2, 2, 6], segmentation=coco_mask.encode(mask))
        utils.transform_instance_annotations(again, flip, (11, 20))


def test_instances_hold_boxes_classes_and_masks():
    polygons = [[np.array([2.0, 2, 8, 2, 8, 8])], [np.array([0.0, 0, 4, 0, 4, 4, 0, 4])]]
    annotations = [annotation([1.0, 2, 3, 4], segmentation=p) for p in polygons]
    instances = utils.annotations_to_instances(annotations, (10, 20))
    assert instances.image_size == (10, 20)
    assert instances.gt_boxes.tensor.tolist() == [[1, 2, 4, 6]] * 2
    assert instances.gt_classes.tolist() == [2, 2] and instances.gt_classes.dtype == torch.int64
    assert isinstance(instances.gt_masks, PolygonMasks)
    bitmask = utils.annotations_to_instances(annotations, (10, 20), mask_format="bitmask").gt_masks
    assert isinstance(bitmask, BitMasks) and bitmask.tensor.shape == (2, 10, 20)
    assert bitmask.tensor[1].sum() == 16


def test_no_annotations_give_instances_of_length_zero():
    instances = utils.annotations_to_instances([], (10, 20))
    assert len(instances) == 0 and instances.gt_boxes.tensor.shape == (0, 4)
    assert instances.gt_classes.dtype == torch.int64 and not instances.has("gt_masks")


def test_thin_boxes_and_empty_masks_are_filtered():
    boxes = [[0.0, 0, 5, 5], [0.0, 0, 5, 1e-6], [0.0, 0, 5, 5]]
    instances = utils.annotations_to_instances([annotation(box) for box in boxes], (10, 20))
    instances.gt_masks = PolygonMasks([[[0.0, 0, 5, 0, 5, 5]], [[0.0, 0, 5, 0, 5, 5]], []])
    kept, flags = utils.filter_empty_instances(instances, return_mask=True)
    assert flags.tolist() == [True, False, False] and len(kept) == 1
    assert len(utils.filter_empty_instances(instances, by_mask=False)) == 2
    with pytest.raises(AssertionError):
        utils.filter_empty_instances(instances, by_box=False, by_mask=False)


# The mapper


@pytest.fixture
def records(tmp_path):
    return load_coco_json(write_coco(tmp_path, coco_content()), str(tmp_path))


def test_a_training_record_becomes_an_image_and_its_instances(records):
    record = copy.deepcopy(records[2])  # 36 x 36, two objects
    mapper = DatasetMapper(True, augmentations=[T.ResizeTransform(36, 36, 72, 54)], image_format="BGR")
    mapped = mapper(record)
    assert record == records[2]
    assert mapped["image"].shape == (3, 72, 54) and mapped["image"].dtype == torch.uint8
    assert (mapped["height"], mapped["width"], mapped["image_id"]) == (36, 36, 7)
    assert "annotations" not in mapped
    assert mapped["instances"].image_size == (72, 54)
    expected = torch.tensor([[2, 3.5, 12, 15.5], [3, 3.5, 14, 15.5]]) * torch.tensor([1.5, 2, 1.5, 2])
    torch.testing.assert_close(mapped["instances"].gt_boxes.tensor, expected)
    picture = np.asarray(Image.open(record["file_name"]).resize((54, 72), Image.BILINEAR))
    assert np.array_equal(mapped["image"].permute(1, 2, 0).numpy(), picture[:, :, ::-1])


def test_a_test_record_loses_its_annotations(records):
    mapped = DatasetMapper(False, augmentations=[], image_format="RGB")(records[2])
    assert "annotations" not in mapped and "instances" not in mapped


def test_crowds_and_objects_that_a_crop_removes_are_left_out(records):
    crowd = DatasetMapper(True, augmentations=[], image_format="RGB")(records[4])
    assert len(crowd["instances"]) == 0
    away = DatasetMapper(True, augmentations=[T.CropTransform(20, 20, 10, 10)], image_format="RGB")(records[2])
    assert len(away["instances"]) == 0 and away["image"].shape == (3, 10, 10)


def test_a_record_without_annotations_gets_no_instances(records):
    record = {key: value for key, value in records[0].items() if key != "annotations"}
    assert "instances" not in DatasetMapper(True, augmentations=[], image_format="RGB")(record)


def test_boxes_can_be_recomputed_from_the_masks(records):
    record = copy.deepcopy(records[2])
    diamond = [16.0, 0, 32, 16, 16, 32, 0, 16]
    record["annotations"] = [annotation([0, 0, 32, 32], iscrowd=0, segmentation=[diamond])]
    options = {"augmentations": [T.HFlipTransform(36)], "image_format": "RGB", "use_instance_mask": True}
    mapped = DatasetMapper(True, recompute_boxes=True, **options)(record)
    assert mapped["instances"].gt_boxes.tensor.tolist() == [[4, 0, 36, 32]]
    assert mapped["instances"].has("gt_masks")
    with pytest.raises(AssertionError):
        DatasetMapper(True, augmentations=[], image_format="RGB", recompute_boxes=True)


@pytest.mark.fallback("detectron2")
def test_recomputed_boxes_are_tight_where_a_crop_cuts_the_object(records):
    record = copy.deepcopy(records[2])
    diamond = [16.0, 0, 32, 16, 16, 32, 0, 16]
    record["annotations"] = [annotation([0, 0, 32, 32], iscrowd=0, segmentation=[diamond])]
    crop = [T.CropTransform(24, 0, 12, 36)]
    options = {"augmentations": crop, "image_format": "RGB", "use_instance_mask": True}
    loose = DatasetMapper(True, **options)(record)["instances"].gt_boxes.tensor
    tight = DatasetMapper(True, recompute_boxes=True, **options)(record)["instances"].gt_boxes.tensor
    assert loose.tolist() == [[0, 0, 8, 32]] and tight.tolist() == [[0, 8, 8, 24]]


def test_run_length_masks_become_bitmasks(records):
    record = copy.deepcopy(records[2])
    rle = {"size": [36, 36], "counts": [36 * 4, 36 * 2, 36 * 30]}  # columns 4 and 5
    from pycocotools import mask as coco_mask

    encoded = coco_mask.frPyObjects(rle, 36, 36)
    record["annotations"] = [annotation([4, 0, 2, 36], segmentation=encoded)]
    mapper = DatasetMapper(
        True, augmentations=[], image_format="RGB", use_instance_mask=True, instance_mask_format="bitmask"
    )
    masks = mapper(record)["instances"].gt_masks
    assert masks.tensor.sum() == 72 and masks.tensor[0, :, 4:6].all()


# Lists and mapped data sets


@pytest.mark.parametrize("options", [{}, {"serialize": False}])
def test_what_a_data_set_hands_out_may_be_changed(options):
    items = [{"a": [1]}, {"a": [2]}]
    dataset = DatasetFromList(items, **options)
    dataset[0]["a"].append(9)
    assert dataset[0] == {"a": [1]} and len(dataset) == 2 and items[0] == {"a": [1]}
    with pytest.raises(IndexError):
        dataset[2]


def test_serialised_records_are_one_block_that_pickling_does_not_copy_item_by_item():
    dataset = DatasetFromList([{"n": i} for i in range(100)])
    twin = pickle.loads(pickle.dumps(dataset))
    assert [twin[i]["n"] for i in range(100)] == list(range(100))


@pytest.mark.fallback("detectron2")
def test_records_are_held_as_bytes_not_as_objects():
    import gc

    record = {"annotations": [{"bbox": [1.0, 2.0, 3.0, 4.0]} for _ in range(50)]}
    gc.collect()
    before = len(gc.get_objects())
    dataset = DatasetFromList([record] * 1000)
    gc.collect()
    assert len(gc.get_objects()) - before < 100
    assert dataset[-1] == record


def test_another_item_takes_the_place_of_a_rejected_one():
    dataset = MapDataset(DatasetFromList([0, 1, 2, 3]), lambda item: None if item == 1 else item * 10)
    assert [dataset[0], dataset[2], dataset[3]] == [0, 20, 30]
    assert all(dataset[1] in (0, 20, 30) for _ in range(10))
    assert len(dataset) == 4


@pytest.mark.fallback("detectron2")
def test_a_mapper_that_rejects_everything_is_an_error():
    with pytest.raises(RuntimeError, match="every one of the 3"):
        MapDataset(DatasetFromList([0, 1, 2]), lambda item: None)[1]


class Counting(IterableDataset):
    def __iter__(self):
        return iter(range(6))


def test_an_iterable_data_set_loses_its_rejected_items():
    assert list(MapDataset(Counting(), lambda item: item * 2 if item % 2 else None)) == [2, 6, 10]


def test_batches_are_grouped_by_the_original_aspect():
    sizes = [(4, 9), (9, 4), (5, 5), (2, 3), (8, 9), (9, 8)]
    records = [{"height": h, "width": w, "n": n} for n, (h, w) in enumerate(sizes)]
    batches = [[record["n"] for record in batch] for batch in AspectRatioGroupedDataset(records, 2)]
    assert batches == [[1, 2], [0, 3]]


def test_unfinished_groups_wait_for_the_next_iterator():
    grouped = AspectRatioGroupedDataset([{"height": 1, "width": 2, "n": 0}], 2)
    assert list(grouped) == []
    assert [len(batch) for batch in grouped] == [2]


# Names to records


@pytest.fixture
def name(tmp_path):
    register_coco_instances("test_loading", {}, write_coco(tmp_path, coco_content()), str(tmp_path))
    yield "test_loading"
    for other in ("test_loading", "test_other"):
        if other in DatasetCatalog.list():
            DatasetCatalog.remove(other)
        if other in MetadataCatalog.list():
            MetadataCatalog.remove(other)


def test_images_without_an_object_are_left_out_on_request(name):
    assert [r["image_id"] for r in get_detection_dataset_dicts(name)] == [4, 7]  # image 13 has a crowd alone
    assert len(get_detection_dataset_dicts(names=[name], filter_empty=False)) == 5


def test_several_data_sets_are_joined_if_their_classes_agree(name):
    DatasetCatalog.register("test_other", lambda: [{"annotations": [{"category_id": 0}]}])
    MetadataCatalog.get("test_other").thing_classes = ["ball", "cube", "cone"]
    assert len(get_detection_dataset_dicts([name, "test_other"])) == 3
    MetadataCatalog.remove("test_other")
    MetadataCatalog.get("test_other").thing_classes = ["ball"]
    with pytest.raises(ValueError, match="thing_classes"):
        get_detection_dataset_dicts([name, "test_other"])
    assert len(get_detection_dataset_dicts([name, "test_other"], check_consistency=False)) == 3


def test_what_cannot_be_loaded_is_an_error(name):
    with pytest.raises(AssertionError):
        get_detection_dataset_dicts([])
    with pytest.raises(KeyError):
        get_detection_dataset_dicts("test_other")
    DatasetCatalog.register("test_other", lambda: [])
    with pytest.raises(AssertionError, match="test_other"):
        get_detection_dataset_dicts("test_other")
    DatasetCatalog.remove("test_other")
    DatasetCatalog.register("test_other", lambda: [{"annotations": []}])
    with pytest.raises(AssertionError, match="test_other"):
        get_detection_dataset_dicts("test_other")


def test_a_class_beyond_the_names_is_an_error(name):
    DatasetCatalog.register("test_other", lambda: [{"annotations": [{"category_id": 1}]}])
    MetadataCatalog.get("test_other").thing_classes = ["ball"]
    with pytest.raises(AssertionError):
        get_detection_dataset_dicts("test_other")


def test_objects_are_counted_per_class(name, caplog, monkeypatch):
    classes = ["counted once", "counted twice"]  # a table of its own: equal lines may be logged once per process
    DatasetCatalog.register("test_other", lambda: [{"annotations": [{"category_id": i} for i in (0, 1, 1)]}])
    MetadataCatalog.get("test_other").thing_classes = classes
    monkeypatch.setattr(logging.getLogger("detectron2"), "propagate", True)
    with caplog.at_level(logging.INFO, logger="detectron2.data.build"):
        get_detection_dataset_dicts("test_other")
    cells = [cell.strip() for cell in caplog.text.split("|")]
    assert [cells[cells.index(class_name) + 1] for class_name in classes] == ["1", "2"]


class Squares(Dataset):
    def __len__(self):
        return 5

    def __getitem__(self, index):
        return {"n": index**2}


def test_torch_data_sets_come_as_they_are(name):
    squares = Squares()
    DatasetCatalog.register("test_other", lambda: squares)
    assert get_detection_dataset_dicts("test_other") is squares
    assert len(get_detection_dataset_dicts(["test_other", "test_other"])) == 10


# Loaders

SIZES = [(4, 9), (9, 4), (5, 5), (2, 3), (8, 9), (9, 8), (1, 2)]


def numbered(count=7):
    return [{"n": n, "height": SIZES[n % 7][0], "width": SIZES[n % 7][1]} for n in range(count)]


def double(record):
    return {**record, "twice": 2 * record["n"]}


def first_batches(loader, count):
    return [[record["n"] for record in batch] for batch in itertools.islice(iter(loader), count)]


def train_loader(**options):
    defaults = {"mapper": double, "total_batch_size": 3, "sampler": TrainingSampler(7, seed=1)}
    return build_detection_train_loader(numbered(), **{**defaults, **options})


def test_training_batches_follow_the_sampler():
    order = list(itertools.islice(iter(TrainingSampler(7, seed=1)), 21))
    batches = list(itertools.islice(iter(train_loader(aspect_ratio_grouping=False)), 7))
    assert [record["n"] for batch in batches for record in batch] == order
    assert all(isinstance(batch, list) and len(batch) == 3 for batch in batches)
    assert all(record["twice"] == 2 * record["n"] for batch in batches for record in batch)


def test_a_grouped_batch_is_wide_or_not():
    for batch in itertools.islice(iter(train_loader()), 10):
        assert len(batch) == 3 and len({record["width"] > record["height"] for record in batch}) == 1


def test_the_order_does_not_depend_on_the_number_of_workers():
    alone = first_batches(train_loader(aspect_ratio_grouping=False), 10)
    for workers in (1, 2):
        assert first_batches(train_loader(aspect_ratio_grouping=False, num_workers=workers), 10) == alone


@pytest.mark.fallback("detectron2")
def test_the_order_of_groups_does_not_depend_on_the_number_of_workers():
    assert first_batches(train_loader(num_workers=2), 10) == first_batches(train_loader(), 10)


def draw(record):
    return {**record, "draw": float(np.random.rand()), "torch": torch.rand(()).item()}


def test_workers_draw_different_numbers_that_the_seed_repeats():
    options = {"mapper": draw, "num_workers": 2, "aspect_ratio_grouping": False, "seed": 5, "total_batch_size": 2}

    def drawn():
        batches = list(itertools.islice(iter(train_loader(**options)), 6))
        return [(record["draw"], record["torch"]) for batch in batches for record in batch]

    first = drawn()
    assert len(set(first)) == 12
    assert drawn() == first


def first_numbers(record):
    """What the generators of this worker give first, and what they must give by its seed."""
    info = get_worker_info()
    seed = info.seed % 2**31 + info.id
    expected = (np.random.RandomState(seed).rand(), random.Random(seed).random())
    torch_expected = torch.rand((), generator=torch.Generator().manual_seed(seed)).item()
    return {
        **record,
        "first": (np.random.rand(), random.random(), torch.rand(()).item()),
        "due": (*expected, torch_expected),
    }


def test_a_worker_seeds_all_generators_from_torchs_seed_and_its_number():
    loader = train_loader(mapper=first_numbers, num_workers=2, aspect_ratio_grouping=False, total_batch_size=1)
    batches = list(itertools.islice(iter(loader), 2))  # the first of each worker
    assert all(record["first"] == record["due"] for batch in batches for record in batch)
    assert batches[0][0]["first"] != batches[1][0]["first"]


def test_records_stay_what_they_are_whatever_is_done_to_a_batch():
    records = numbered()
    loader = build_detection_train_loader(
        records, mapper=None, total_batch_size=7, sampler=TrainingSampler(7, shuffle=False), aspect_ratio_grouping=False
    )
    batches = iter(loader)
    for record in next(batches):
        record.clear()
    assert [record["n"] for record in next(batches)] == list(range(7))
    assert records == numbered()


def test_training_has_no_end_and_no_length():
    with pytest.raises(TypeError):
        len(train_loader())
    with pytest.raises(TypeError):
        len(train_loader(aspect_ratio_grouping=False))
    assert len(first_batches(build_detection_train_loader(numbered(), mapper=double, total_batch_size=2), 30)) == 30


def test_arguments_that_do_not_fit_are_refused(monkeypatch):
    with pytest.raises(AssertionError):
        train_loader(sampler=[0, 1, 2])
    with pytest.raises(AssertionError):
        train_loader(total_batch_size=0)
    with pytest.raises(AssertionError):
        train_loader(drop_last=False)
    with pytest.raises(AssertionError):
        build_detection_train_loader(Counting(), mapper=None, sampler=TrainingSampler(3), total_batch_size=2)
    with pytest.raises(ValueError):
        train_loader(single_gpu_batch_size=2)
    import detectron2.data.build as build

    monkeypatch.setattr(build, "get_world_size", lambda: 2)
    with pytest.raises(AssertionError):
        train_loader(total_batch_size=3)


def test_the_batch_is_shared_among_the_processes(monkeypatch):
    import detectron2.data.build as build

    monkeypatch.setattr(build, "get_world_size", lambda: 2)
    batches = first_batches(train_loader(total_batch_size=4, aspect_ratio_grouping=False), 3)
    assert [len(batch) for batch in batches] == [2, 2, 2]


def stack(batch):
    return torch.tensor([record["n"] for record in batch])


def test_batches_can_be_collated():
    batch = next(iter(train_loader(collate_fn=stack, aspect_ratio_grouping=False)))
    assert isinstance(batch, torch.Tensor) and batch.shape == (3,)
    loader = build_detection_test_loader(numbered(), mapper=double, batch_size=4, collate_fn=stack)
    assert [batch.tolist() for batch in loader] == [[0, 1, 2, 3], [4, 5, 6]]


def test_an_iterable_data_set_has_its_own_order():
    loader = build_detection_train_loader(
        Counting(), mapper=lambda n: {"n": n}, total_batch_size=2, aspect_ratio_grouping=False
    )
    assert first_batches(loader, 3) == [[0, 1], [2, 3], [4, 5]]


@pytest.mark.parametrize("workers", [0, 2])
def test_testing_sees_every_record_once_in_order(workers):
    loader = build_detection_test_loader(numbered(), mapper=double, batch_size=3, num_workers=workers)
    assert len(loader) == 3
    assert [[record["n"] for record in batch] for batch in loader] == [[0, 1, 2], [3, 4, 5], [6]]
    assert len(build_detection_test_loader(numbered(), mapper=double)) == 7


def test_loaders_are_built_from_lazy_configs(name):
    from detectron2.config import LazyCall as L
    from detectron2.config import instantiate

    mapper = L(DatasetMapper)(
        is_train=True,
        image_format="RGB",
        augmentations=[L(T.ResizeShortestEdge)(short_edge_length=[20, 24], sample_style="choice"), L(T.RandomFlip)()],
    )
    dataset = L(get_detection_dataset_dicts)(names=name)
    loader = instantiate(L(build_detection_train_loader)(dataset=dataset, mapper=mapper, total_batch_size=2))
    for batch in itertools.islice(iter(loader), 4):
        for record in batch:
            assert min(record["image"].shape[1:]) in (20, 24)
            assert record["instances"].image_size == tuple(record["image"].shape[1:])
