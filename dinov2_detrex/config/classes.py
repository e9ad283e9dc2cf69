"""How many classes does a config's model tell apart? Detectors keep the number in different places."""

from typing import NamedTuple

from omegaconf import DictConfig, OmegaConf

PLACES = ("num_classes", "roi_heads.num_classes", "sem_seg_head.num_classes")  # DETRs, R-CNNs, MaskDINO and Mask2Former


class ClassCount(NamedTuple):
    """The key, as an override names it, and the number; ("model.num_classes", None) where the config has none."""

    key: str
    number: int | None


def class_count(cfg_model: DictConfig) -> ClassCount:
    """Where a config's `model` says how many classes there are, and how many."""
    for place in PLACES:
        number = OmegaConf.select(cfg_model, place)
        if isinstance(number, int):
            return ClassCount(f"model.{place}", number)
    return ClassCount(f"model.{PLACES[0]}", None)
