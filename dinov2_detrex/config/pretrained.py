"""What is a config whose model loads no weights, because it gets them elsewhere or needs none?"""

import copy
from collections.abc import Iterable
from typing import Any, cast

from omegaconf import DictConfig, ListConfig, OmegaConf


def without_pretrained(cfg: DictConfig) -> DictConfig:
    """A copy of a training config whose model loads no weights: every `pretrained` in it False, every `checkpoint_path`
    empty."""
    cfg = copy.deepcopy(cfg)
    _clear_weights(cfg.model)
    return cfg


def _clear_weights(node: Any) -> None:
    if isinstance(node, DictConfig):
        for key, value in {"pretrained": False, "checkpoint_path": ""}.items():
            if key in node:
                node[key] = value
    if isinstance(node, (DictConfig, ListConfig)):
        for key in cast(Iterable[Any], node.keys() if isinstance(node, DictConfig) else range(len(node))):
            if not OmegaConf.is_interpolation(node, key):
                _clear_weights(node[key])
