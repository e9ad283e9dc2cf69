"""COCO 2017 with the augmentation of DETR (Carion et al. 2020, section A.4): `$DETECTRON2_DATASETS/coco`.

Half of the images are resized to a random short side, half are first cropped at random. `image.short_sides` and
`image.max_size` are in pixels of the network's input.
"""

import detectron2.data.transforms as T
from detectron2.config import LazyCall as L
from detectron2.data import build_detection_test_loader, build_detection_train_loader, get_detection_dataset_dicts
from detectron2.evaluation import COCOEvaluator

from dinov2_detrex.data import DetrDatasetMapper

SHORT_SIDES = tuple(range(480, 801, 32))
MAX_SIZE = 1333


def _resize(short_sides, max_size=MAX_SIZE):
    return L(T.ResizeShortestEdge)(short_edge_length=short_sides, max_size=max_size, sample_style="choice")


dataloader = dict(
    train=L(build_detection_train_loader)(
        dataset=L(get_detection_dataset_dicts)(names="coco_2017_train"),
        mapper=L(DetrDatasetMapper)(
            augmentation=[L(T.RandomFlip)(), _resize(SHORT_SIDES)],
            augmentation_with_crop=[
                L(T.RandomFlip)(),
                L(T.ResizeShortestEdge)(short_edge_length=(400, 500, 600), sample_style="choice"),
                L(T.RandomCrop)(crop_type="absolute_range", crop_size=(384, 600)),
                _resize(SHORT_SIDES),
            ],
            is_train=True,
            mask_on=False,
            img_format="RGB",
        ),
        total_batch_size=16,
        num_workers=4,
    ),
    test=L(build_detection_test_loader)(
        dataset=L(get_detection_dataset_dicts)(names="coco_2017_val", filter_empty=False),
        mapper=L(DetrDatasetMapper)(
            augmentation=[
                L(T.ResizeShortestEdge)(short_edge_length=SHORT_SIDES[-1], max_size=MAX_SIZE),
            ],
            augmentation_with_crop=None,
            is_train=False,
            mask_on=False,
            img_format="${...train.mapper.img_format}",
        ),
        num_workers=4,
    ),
    evaluator=L(COCOEvaluator)(dataset_name="${..test.dataset.names}"),
)
