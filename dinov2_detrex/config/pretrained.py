"""What is a config whose model gets its weights elsewhere, or needs none: without those to load, without adapters?"""

import copy
from collections.abc import Iterable, Iterator
from typing import Any, cast

from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict


def without_pretrained(cfg: DictConfig) -> DictConfig:
    """A copy of a training config whose model loads no weights: every `pretrained` in it False, every `checkpoint_path`
    empty."""
    cfg = copy.deepcopy(cfg)
    for node in _sections(cfg.model):
        for key, value in {"pretrained": False, "checkpoint_path": ""}.items():
            if key in node:
                node[key] = value
    return cfg


def without_adapters(cfg: DictConfig) -> DictConfig:
    """A copy of a training config whose ViT has no adapters, since they are merged into its weights: what trained
    adapters alone is frozen."""
    cfg = copy.deepcopy(cfg)
    for node in _sections(cfg.model):
        if node.get("freeze") == "lora":
            with open_dict(node):
                node.freeze = True
                for key in [key for key in node if str(key).startswith("lora_")]:
                    del node[key]
    return cfg


def _sections(node: Any) -> Iterator[DictConfig]:
    """Every section in a config, but what interpolations refer to."""
    if isinstance(node, DictConfig):
        yield node
    if isinstance(node, (DictConfig, ListConfig)):
        for key in cast(Iterable[Any], list(node.keys()) if isinstance(node, DictConfig) else range(len(node))):
            if not OmegaConf.is_interpolation(node, key):
                yield from _sections(node[key])
