"""A run told in epochs: `schedule` holds the numbers; `train`'s lengths and `lr_multiplier` follow from them.

A recipe takes all three into its own top level, beside its `dataloader`.
"""

from detectron2.config import LazyCall as L
from detectron2.solver import WarmupParamScheduler
from fvcore.common.param_scheduler import MultiStepParamScheduler

from .train import train

schedule = dict(
    epochs=12,
    decay_epoch="${share:${.epochs},11,12}",  # the learning rate drops to a tenth after this many epochs: 11
    warmup_iters=0,
    images_per_epoch=120_000,  # COCO train2017 has 118,287; the field counts 7,500 iterations of 16
)

lr_multiplier = L(WarmupParamScheduler)(
    scheduler=L(MultiStepParamScheduler)(
        values=[1.0, 0.1],
        milestones=[  # in thousandths of an epoch: the scheduler knows whole numbers only
            "${scaled:${schedule.decay_epoch},1000}",
            "${scaled:${schedule.epochs},1000}",
        ],
    ),
    warmup_factor=0.001,
    warmup_length="${warmup_share:${schedule.warmup_iters},${train.max_iter}}",
    warmup_method="linear",
)

train.max_iter = "${iterations:${schedule.epochs},${schedule.images_per_epoch},${dataloader.train.total_batch_size}}"
train.eval_period = "${iterations:1,${schedule.images_per_epoch},${dataloader.train.total_batch_size}}"
train.checkpointer.period = "${train.eval_period}"
