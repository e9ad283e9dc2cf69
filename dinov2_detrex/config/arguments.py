"""What may the sections hold that describe calls: `dataloader`, `optimizer` and `lr_multiplier`?

They are open, since a recipe may name any callable of its own. But a learning rate is a number of at least 0 whoever
gets it, and what is wrong with one is said before the data are read, in place of a hang, a traceback hours later, or
silence. Arguments that the tables do not name are their callable's business, except that no number is NaN.
"""

import math
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf

from dinov2_detrex.config.schema import OptionError, Range, refused_value

MAX_BATCH, MAX_WORKERS = 2**16, 2**10  # beyond what any machine serves: a batch that never fills looks like a hang


@dataclass(frozen=True)
class Number:
    """A number within a range, infinity never; `whole`: without a fraction."""

    allowed: Range = Range()
    whole: bool = False
    optional: bool = False

    def takes(self, value: Any) -> bool:
        """Whether `value` is such a number; truth values are none."""
        if value is None:
            return self.optional
        kinds = int if self.whole else int | float
        finite = isinstance(value, kinds) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
        return finite and value in self.allowed

    def __str__(self) -> str:
        text = f"a {'whole' if self.whole else 'finite'} number {self.allowed}"
        return f"{text}, or null" if self.optional else text


@dataclass(frozen=True)
class Numbers:
    """A list of such numbers, in ascending order if asked for."""

    each: Number
    ascending: bool = False

    def takes(self, value: Any) -> bool:
        """Whether `value` is such a list."""
        if not isinstance(value, list | tuple) or not all(map(self.each.takes, value)):
            return False
        return not self.ascending or all(one <= following for one, following in zip(value, value[1:]))

    def __str__(self) -> str:
        return f"a list{' in ascending order' if self.ascending else ''}, each of it {self.each}"


@dataclass(frozen=True)
class Flag:
    """True or false."""

    def takes(self, value: Any) -> bool:
        """Whether `value` is one of the two."""
        return isinstance(value, bool)

    def __str__(self) -> str:
        return "true or false"


@dataclass(frozen=True)
class Called:
    """A callable, a section that describes one, or null."""

    def takes(self, value: Any) -> bool:
        """Whether `value` is one of these."""
        return value is None or callable(value) or isinstance(value, Mapping) and "_target_" in value

    def __str__(self) -> str:
        return "a section with a _target_, or null"


@dataclass(frozen=True)
class OneOf:
    """One of some texts."""

    texts: tuple[str, ...]
    optional: bool = False

    def takes(self, value: Any) -> bool:
        """Whether `value` is one of them."""
        return value in self.texts or value is None and self.optional

    def __str__(self) -> str:
        return " or ".join(map(repr, self.texts)) + (", or null" if self.optional else "")


@dataclass(frozen=True)
class OnlyTrue:
    """True: what the callable does otherwise is of no use in this section."""

    use: str

    def takes(self, value: Any) -> bool:
        """Whether `value` is true."""
        return value is True

    def __str__(self) -> str:
        return f"true: {self.use}"


@dataclass(frozen=True)
class Folder:
    """A path, or null."""

    def takes(self, value: Any) -> bool:
        """Whether `value` is one of these."""
        return value is None or isinstance(value, os.PathLike) or isinstance(value, str) and "\0" not in value

    def __str__(self) -> str:
        return "the path of a folder, or null"


@dataclass(frozen=True)
class Records:
    """A section that describes a call which gives the records of a data set, or these themselves."""

    def takes(self, value: Any) -> bool:
        """Whether `value` can be one of these."""
        if isinstance(value, Mapping):
            return "_target_" in value
        return not (value is None or isinstance(value, str | int | float))

    def __str__(self) -> str:
        return "a section with a _target_, whose call gives the records"


Argument = Number | Numbers | Flag | Called | OneOf | OnlyTrue | Folder | Records

_AT_LEAST_0 = Number(Range(low=0))
_FRACTION = Number(Range(low=0, high=1))
_BELOW_1 = Number(Range(low=0, high=math.nextafter(1, 0)))  # 1 keeps what there is for ever
_COUNT = Number(Range(low=1), whole=True, optional=True)
_OF_LOADER: dict[str, Argument] = {
    "total_batch_size": Number(Range(1, MAX_BATCH), whole=True, optional=True),
    "single_gpu_batch_size": Number(Range(1, MAX_BATCH), whole=True, optional=True),
    "batch_size": Number(Range(1, MAX_BATCH), whole=True),
    "num_workers": Number(Range(0, MAX_WORKERS), whole=True),
    "prefetch_factor": _COUNT,
    "timeout": _AT_LEAST_0,
    "seed": Number(Range(0, 2**63 - 1), whole=True, optional=True),
    "aspect_ratio_grouping": Flag(),
    "drop_last": Flag(),
    "persistent_workers": Flag(),
    "pin_memory": Flag(),
    "dataset": Records(),
    "mapper": Called(),
    "sampler": Called(),
    "collate_fn": Called(),
}
_OF_DATASET: dict[str, Argument] = {"filter_empty": Flag(), "check": Flag(), "skip_bad_images": Flag()}
_PILLOW = ("L", "1", "RGBA", "CMYK", "YCbCr", "LAB", "HSV", "YUV-BT.601")  # what detectron2's mapper takes beside them
_OF_MAPPER: dict[str, Argument] = {
    "image_format": OneOf(("RGB", "BGR", *_PILLOW), optional=True),
    "img_format": OneOf(("RGB", "BGR", "L")),
}
_GIVES_OBJECTS = OnlyTrue("otherwise the mapper leaves out the objects to train on")
_OPTIONAL_RATE = Number(Range(low=0), optional=True)
# section -> argument -> what it takes
ARGUMENTS: dict[str, dict[str, Argument]] = {
    "dataloader.train": _OF_LOADER | {"repeat_thresh": Number(Range(0, 1), optional=True), "repeat_power": _FRACTION},
    "dataloader.train.dataset": _OF_DATASET,
    "dataloader.train.mapper": _OF_MAPPER | {"is_train": _GIVES_OBJECTS},
    "dataloader.test": _OF_LOADER,
    "dataloader.test.dataset": _OF_DATASET,
    "dataloader.test.mapper": _OF_MAPPER | {"is_train": Flag()},
    "dataloader.evaluator": {"output_dir": Folder()},
    "optimizer": {
        "lr": _AT_LEAST_0,
        "weight_decay": _AT_LEAST_0,
        "momentum": _AT_LEAST_0,
        "betas": Numbers(_BELOW_1),
        "amsgrad": Flag(),
        "nesterov": Flag(),
    },
    "optimizer.params": {
        "base_lr": _OPTIONAL_RATE,
        "weight_decay": _OPTIONAL_RATE,
        "weight_decay_norm": _OPTIONAL_RATE,
        "weight_decay_bias": _OPTIONAL_RATE,
        "bias_lr_factor": _OPTIONAL_RATE,
    },
    "lr_multiplier": {
        "warmup_factor": _AT_LEAST_0,
        "warmup_length": _FRACTION,
        "warmup_method": OneOf(("linear", "constant")),
        "rescale_interval": Flag(),
    },
    "lr_multiplier.scheduler": {
        "values": Numbers(_AT_LEAST_0),
        "milestones": Numbers(_AT_LEAST_0, ascending=True),
        "start_value": _AT_LEAST_0,
        "end_value": _AT_LEAST_0,
        "value": _AT_LEAST_0,
    },
}
CALLS = ("model", "optimizer", "optimizer.params", "lr_multiplier", "dataloader.train")  # which a run makes
OPTIONAL_CALLS = ("dataloader.test", "dataloader.evaluator")  # null, or absent, leaves them out


def check_arguments(cfg: DictConfig, resolve: bool = True) -> None:
    """Look at the sections that describe calls; without `resolve`, at what is no interpolation.

    Raises:
        OptionError: naming the first key that is wrong, its value and what it takes.
    """
    values = OmegaConf.to_container(cfg, resolve=resolve)
    for key in (*CALLS, *OPTIONAL_CALLS):
        given = _at(values, key)
        if given is not None or key in CALLS:
            _check_call(key, given)
    for section, arguments in ARGUMENTS.items():
        given = _at(values, section)
        for name in arguments.keys() & given.keys() if isinstance(given, Mapping) else ():
            open_yet = not resolve and "${" in str(given[name])
            if not open_yet and not arguments[name].takes(given[name]):
                raise OptionError(refused_value(f"{section}.{name}", given[name], str(arguments[name])))
    for key, number in _numbers_in(values):
        if math.isnan(number):
            raise OptionError(refused_value(key, number, "a number"))


def _at(values: Any, key: str) -> Any:
    """What stands under a dotted key of nested dictionaries; None where nothing does."""
    for name in key.split("."):
        values = values.get(name) if isinstance(values, Mapping) else None
    return values


def _check_call(key: str, given: Any) -> None:
    if isinstance(given, str) and "${" in given:
        return
    if not isinstance(given, Mapping):
        raise OptionError(refused_value(key, given, "a section that names a callable as its _target_"))
    target = given.get("_target_")
    if not (callable(target) or isinstance(target, Mapping) or isinstance(target, str) and target.strip()):
        raise OptionError(refused_value(f"{key}._target_", target, "a callable or its dotted name"))


def _numbers_in(values: Any, key: str = "") -> Iterator[tuple[str, float]]:
    """The floats in nested dictionaries and lists, with their dotted keys."""
    if isinstance(values, float):
        yield key.removesuffix("."), values
    items = values.items() if isinstance(values, Mapping) else enumerate(values) if isinstance(values, list) else ()
    for name, inner in items:
        yield from _numbers_in(inner, f"{key}{name}.")
