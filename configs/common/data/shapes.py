"""The generated shapes data set (`python -m dinov2_detrex.data.shapes`): `$DETECTRON2_DATASETS/shapes`, 3 classes."""

import detectron2.data.transforms as T
from detectron2.config import LazyCall as L
from detectron2.data import build_detection_test_loader

from dinov2_detrex.data import DetrDatasetMapper, TrainLoader, coco_dataset_dicts, datasets_root
from dinov2_detrex.evaluation import COCOEvaluator

_root = datasets_root() / "shapes"


def _split(name, filter_empty):
    return L(coco_dataset_dicts)(
        names=f"shapes_{name}",
        json_file=str(_root / "annotations" / f"instances_{name}.json"),
        image_root=str(_root / name),
        filter_empty=filter_empty,
        if_missing="make it with `python -m dinov2_detrex.data.shapes`",
    )


def _mapper(augmentation, is_train):
    return L(DetrDatasetMapper)(
        augmentation=augmentation,
        augmentation_with_crop=None,
        is_train=is_train,
        mask_on=False,
        img_format="RGB",
    )


dataloader = dict(
    train=L(TrainLoader)(
        dataset=_split("train", filter_empty=True),
        mapper=_mapper([L(T.RandomFlip)()], is_train=True),
        total_batch_size=16,
        aspect_ratio_grouping=False,  # the images are nearly square
        num_workers=0,  # they are small: reading one takes less than a worker's overhead
    ),
    test=L(build_detection_test_loader)(
        dataset=_split("val", filter_empty=False),
        mapper=_mapper([], is_train=False),
        batch_size=10,
        num_workers=0,
    ),
    evaluator=L(COCOEvaluator)(
        dataset_name="${..test.dataset.names}",
        max_dets_per_image="${d2d.detections_judged:100}",  # of an image; COCO's 100, or what model.max_objects says
    ),
)
