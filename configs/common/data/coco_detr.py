"""COCO 2017 (`$DETECTRON2_DATASETS/coco`) with the augmentation of DETR (Carion et al. 2020, section A.4).

Half of the images are resized to a random short side, the other half are cropped at random before that. All lengths
are fractions of one: `dataloader.image.size`, the largest short side in pixels.
"""

import detectron2.data.transforms as T
from detectron2.config import LazyCall as L
from detectron2.data import build_detection_test_loader, get_detection_dataset_dicts

from dinov2_detrex.data import DetrDatasetMapper, TrainLoader
from dinov2_detrex.evaluation import COCOEvaluator

_IMAGE = "${.....image"  # from the argument of an augmentation in a mapper's list
_ITEM = "${......image"  # from an element of such an argument


def _resize(short_sides):
    return L(T.ResizeShortestEdge)(short_edge_length=short_sides, max_size=_IMAGE + ".max_size}", sample_style="choice")


dataloader = dict(
    image=dict(
        size=800,
        short_sides="${d2d.short_sides:${.size}}",  # 480, 512, ..., 800
        max_size="${d2d.scaled:${.size},1.66625}",  # 1333
    ),
    train=L(TrainLoader)(
        dataset=L(get_detection_dataset_dicts)(names="coco_2017_train"),
        mapper=L(DetrDatasetMapper)(
            augmentation=[L(T.RandomFlip)(), _resize(_IMAGE + ".short_sides}")],
            augmentation_with_crop=[
                L(T.RandomFlip)(),
                L(T.ResizeShortestEdge)(  # 400, 500, 600
                    short_edge_length=[f"${{d2d.scaled:{_ITEM}.size}},{factor}}}" for factor in (0.5, 0.625, 0.75)],
                    sample_style="choice",
                ),
                L(T.RandomCrop)(  # 384 to 600
                    crop_type="absolute_range",
                    crop_size=[f"${{d2d.scaled:{_ITEM}.size}},{factor}}}" for factor in (0.48, 0.75)],
                ),
                _resize(_IMAGE + ".short_sides}"),
            ],
            is_train=True,
            mask_on=False,
            img_format="RGB",
        ),
        total_batch_size=16,
        num_workers="${d2d.workers:4}",
    ),
    test=L(build_detection_test_loader)(
        dataset=L(get_detection_dataset_dicts)(names="coco_2017_val", filter_empty=False),
        mapper=L(DetrDatasetMapper)(
            augmentation=[
                L(T.ResizeShortestEdge)(short_edge_length=_IMAGE + ".size}", max_size=_IMAGE + ".max_size}"),
            ],
            augmentation_with_crop=None,
            is_train=False,
            mask_on=False,
            img_format="${...train.mapper.img_format}",
        ),
        num_workers="${d2d.workers:4}",
    ),
    evaluator=L(COCOEvaluator)(
        dataset_name="${..test.dataset.names}",
        max_dets_per_image="${d2d.detections_judged:100}",  # of an image; COCO's 100, or what model.max_objects says
    ),
)
