"""What may a config's `schedule` section hold? A run told in epochs (configs/common/schedule.py)."""

from dataclasses import dataclass

from omegaconf import SI

from dinov2_detrex.config.schema import Range, Section, option

AT_LEAST_0 = Range(low=0)


@dataclass
class ScheduleOptions(Section):
    """The numbers from which `train`'s lengths and `lr_multiplier` follow."""

    epochs: int | float = option(12, Range(low=0, open=True))
    """Passes over the training images; may be a fraction."""
    decay_epoch: int | float = option(SI("${d2d.share:${.epochs},11,12}"), AT_LEAST_0)
    """The learning rate drops to a tenth after this many epochs: 11 of 12."""
    min_iters: int = option(0, AT_LEAST_0)
    """A run of fewer iterations is stretched to these, its schedule with it, and evaluated 50 times at most."""
    warmup_iters: int = option(0, AT_LEAST_0)
    """Iterations over which the learning rate rises."""
    images_per_epoch: int = option(120_000, Range(low=1))
    """COCO train2017 has 118,287; the field counts 7,500 iterations of 16."""
