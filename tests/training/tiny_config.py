"""A complete training config that runs an iteration in milliseconds: a small convolutional detector on shapes.

The data set is looked for in $TINY_SHAPES; `write_tiny_data` makes it.
"""

import os

import detectron2.data.transforms as T
import torch
from detectron2.config import LazyCall as L
from detectron2.data import DatasetMapper, build_detection_test_loader, build_detection_train_loader
from detectron2.solver import WarmupParamScheduler
from detectron2.solver.build import get_default_optimizer_params
from fvcore.common.param_scheduler import MultiStepParamScheduler
from tiny_detector import TinyDetector

from dinov2_detrex.data import coco_dataset_dicts
from dinov2_detrex.evaluation import COCOEvaluator

ROOT = os.environ.get("TINY_SHAPES", "tiny_shapes")


def _dataset(split, **options):
    return L(coco_dataset_dicts)(
        names=f"tiny_{split}",
        json_file=f"{ROOT}/annotations/instances_{split}.json",
        image_root=f"{ROOT}/{split}",
        **options,
    )


def _mapper(is_train, augmentations):
    return L(DatasetMapper)(is_train=is_train, augmentations=augmentations, image_format="RGB")


dataloader = dict(
    train=L(build_detection_train_loader)(
        dataset=_dataset("train"),
        mapper=_mapper(True, [L(T.RandomFlip)(), L(T.ResizeShortestEdge)(short_edge_length=(32, 48), max_size=64)]),
        total_batch_size=4,
        num_workers=0,
    ),
    test=L(build_detection_test_loader)(
        dataset=_dataset("val", filter_empty=False),
        mapper=_mapper(False, [L(T.ResizeShortestEdge)(short_edge_length=40, max_size=64)]),
        num_workers=0,
    ),
    evaluator=L(COCOEvaluator)(dataset_name="${..test.dataset.names}", output_dir="${train.output_dir}"),
)
model = L(TinyDetector)(num_classes=3, width=8, dropout=0.1)
optimizer = L(torch.optim.AdamW)(
    params=L(get_default_optimizer_params)(base_lr="${..lr}", weight_decay_norm=0.0), lr=1e-3, weight_decay=1e-4
)
lr_multiplier = L(WarmupParamScheduler)(
    scheduler=L(MultiStepParamScheduler)(values=[1.0, 0.1], milestones=[9, 12]),
    warmup_factor=0.1,
    warmup_length=0.2,
)
train = dict(  # as a config written for detrex has it: this project's own keys are missing
    output_dir="./output",
    init_checkpoint="",
    max_iter=12,
    amp=dict(enabled=False),
    ddp=dict(broadcast_buffers=False, find_unused_parameters=False, fp16_compression=False),
    clip_grad=dict(enabled=True, params=dict(max_norm=1.0, norm_type=2)),
    seed=7,
    fast_dev_run=dict(enabled=False),
    checkpointer=dict(period=4, max_to_keep=100),
    eval_period=6,
    log_period=2,
    wandb=dict(enabled=False, params=dict(dir="./wandb", project="tiny", name="tiny")),
    model_ema=dict(enabled=True, decay=0.8, device="", use_ema_weights_for_eval_only=False),
    device="cpu",
)
