"""How is a config read as data? A model package comes from anywhere, so reading its config executes nothing.

Three things in a config can run code; each is refused by its text, before anything is imported or called: YAML tags
that make objects, interpolations (a resolver may read the environment or files), and `_target_`s that are not on the
list below. The list names what only computes, at the depth at which it is exported: of a whole package, a dotted path
could go on through what its modules import, down to `os.system`.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig

from dinov2_detrex.runtime.errors import UserError

CLASSES_OF = (  # every class (a name that begins with a capital) that these export: layers, augmentations, schedules
    "detectron2.data.transforms",
    "detectron2.layers",
    "detectron2.modeling",
    "detectron2.modeling.backbone",
    "detectron2.modeling.backbone.fpn",
    "detectron2.modeling.proposal_generator",
    "detectron2.modeling.roi_heads",
    "detectron2.solver",
    "detrex.layers",
    "detrex.modeling",
    "detrex.modeling.criterion",
    "detrex.modeling.matcher",
    "detrex.modeling.neck",
    "dinov2_detrex.backbone",
    "dinov2_detrex.detector",
    "fvcore.common.param_scheduler",
    "timm.layers",
    "torch.nn",
    "torch.optim",
)
TARGETS = {
    "detectron2.data.DatasetMapper",
    "detectron2.data.build_detection_test_loader",
    "detectron2.data.build_detection_train_loader",
    "detectron2.data.get_detection_dataset_dicts",
    "detectron2.evaluation.COCOEvaluator",
    "detectron2.modeling.anchor_generator.DefaultAnchorGenerator",
    "detectron2.modeling.box_regression.Box2BoxTransform",
    "detectron2.modeling.matcher.Matcher",
    "detectron2.modeling.poolers.ROIPooler",
    "detectron2.solver.build.get_default_optimizer_params",
    "detectron2.solver.get_default_optimizer_params",
    "detrex.data.DetrDatasetMapper",
    "dinov2_detrex.DINO",
    "dinov2_detrex.SimpleFeaturePyramid",
    "dinov2_detrex.TimmBackbone",
    "dinov2_detrex.backbone.get_optimizer_params",
    "dinov2_detrex.backbone.get_vit_lr_decay_rate",
    "dinov2_detrex.config.pyramid_shapes",
    "dinov2_detrex.data.DetrDatasetMapper",
    "dinov2_detrex.data.TrainLoader",
    "dinov2_detrex.data.coco_dataset_dicts",
    "dinov2_detrex.evaluation.COCOEvaluator",
    "dinov2_detrex.training.lr.flat_then_cosine",
    "dinov2_detrex.training.muon.Muon",
    "dinov2_detrex.training.muon.matrices_apart",
}
_CLASS = re.compile(rf"({'|'.join(map(re.escape, CLASSES_OF))})\.[A-Z]\w*", re.ASCII)
_TARGET = "_target_"


def is_allowed(target: Any) -> bool:
    """True for the dotted name of something that a package's config may call."""
    return isinstance(target, str) and (target in TARGETS or _CLASS.fullmatch(target) is not None)


def read_packaged(path: str | os.PathLike) -> DictConfig:
    """The config of a model package.

    Raises:
        UserError: it cannot be read, or holds something that is no data; names the key.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is no config of a model package: {' '.join(str(error).split())}") from error
    return parse_packaged(text, str(path))


def parse_packaged(text: str, source: str) -> DictConfig:
    """A config from YAML that came from anywhere.

    Args:
        text: YAML of a dict.
        source: what it comes from, for messages.

    Raises:
        UserError: it cannot be read, or holds something that is no data; names the key.
    """
    try:
        values = yaml.load(text, Loader=_DataLoader)
    except yaml.YAMLError as error:
        raise UserError(f"{source} is no config of a model package: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise UserError(f"{source} is no config of a model package: it holds no sections")
    refuse_code(values, source)
    return DictConfig(values, flags={"allow_objects": True})


def refuse_code(values: Any, source: str) -> None:
    """Check that nested dicts and lists are a config that executes nothing but what is on the list.

    Raises:
        UserError: begins with `source` and names the key and what it holds.
    """
    for key, value in _leaves(values):
        if key.rpartition(".")[2] == _TARGET:
            if not is_allowed(value):
                raise UserError(f"{source}: {key}={value!r} is not among the targets that a model package may name")
        elif isinstance(value, str) and "${" in value:
            raise UserError(f"{source}: {key}={value!r} is an interpolation, which a model package does not hold")
        elif not (value is None or isinstance(value, str | int | float | bool)):
            raise UserError(f"{source}: {key} holds a {type(value).__name__}, and a model package holds plain values")


def _leaves(node: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of everything that is not searched further; a `_target_` is searched no further."""
    if key.rpartition(".")[2] == _TARGET or not isinstance(node, dict | list):
        yield key, node
        return
    for name, value in node.items() if isinstance(node, dict) else enumerate(node):
        if not isinstance(name, str | int) or "${" in str(name):
            yield f"{key}.{name}", name
        yield from _leaves(value, f"{key}.{name}" if key else str(name))


class _DataLoader(yaml.SafeLoader):
    """Plain YAML, without references: nested ones grow to any size."""

    def compose_node(self, parent, index):
        if self.check_event(yaml.AliasEvent):
            raise yaml.constructor.ConstructorError(None, None, "it refers to an anchor", self.peek_event().start_mark)
        return super().compose_node(parent, index)
