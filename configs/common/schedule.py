"""A run told in epochs: `schedule` holds the numbers; `train`'s lengths and `lr_multiplier` follow from them.

A recipe takes all three into its own top level, beside its `dataloader`.
"""

from detectron2.config import LazyCall as L
from detectron2.solver import WarmupParamScheduler
from fvcore.common.param_scheduler import MultiStepParamScheduler
from omegaconf import OmegaConf

from dinov2_detrex.config.schedule_options import ScheduleOptions

from .train import train

schedule = OmegaConf.structured(ScheduleOptions)

lr_multiplier = L(WarmupParamScheduler)(
    scheduler=L(MultiStepParamScheduler)(
        values=[1.0, 0.1],
        milestones=[  # in thousandths of an epoch: the scheduler knows whole numbers only
            "${d2d.scaled:${schedule.decay_epoch},1000}",
            "${d2d.scaled:${schedule.epochs},1000}",
        ],
    ),
    warmup_factor=0.001,
    warmup_length="${d2d.warmup_share:${schedule.warmup_iters},${train.max_iter}}",
    warmup_method="linear",
)

_EPOCH = "${schedule.images_per_epoch},${dataloader.train.total_batch_size}"
train.max_iter = "${d2d.iterations:${schedule.epochs}," + _EPOCH + ",${schedule.min_iters}}"
train.eval_period = "${d2d.iterations:1," + _EPOCH + ",${d2d.scaled:${schedule.min_iters},0.02}}"
train.checkpointer.period = "${train.eval_period}"
