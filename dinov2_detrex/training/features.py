"""How does a run keep what its frozen backbone gives? `train.feature_cache`, for training and for evaluations."""

import logging
from pathlib import Path

import torch
from detectron2.utils import comm
from torch import nn

from dinov2_detrex.backbone import TimmBackbone
from dinov2_detrex.backbone.feature_cache import FeatureCache
from dinov2_detrex.backbone.feature_store import FeatureStore
from dinov2_detrex.config.train_options import FeatureDtype, TrainOptions
from dinov2_detrex.runtime.errors import UsageError
from dinov2_detrex.runtime.files import cache_folder
from dinov2_detrex.training import parallel
from dinov2_detrex.training.trainer import TrainerHook

logger = logging.getLogger(__name__)


def keep_features(model: nn.Module, options: TrainOptions) -> None:
    """Give the model's backbones a cache, where `train.feature_cache` asks for one.

    Raises:
        UsageError: the model has no `TimmBackbone`, it is not frozen, or its weights are to be sharded.
        UserError: the folder cannot be used.
    """
    wanted = options.feature_cache
    if not wanted.enabled:
        return
    if parallel.is_sharded(options.fsdp):
        raise UsageError("train.feature_cache and train.fsdp do not go together: no process has all weights")
    backbones = _backbones(model)
    if not backbones:
        raise UsageError("train.feature_cache.enabled=true: the model has no TimmBackbone whose features could be kept")
    folder = Path(wanted.folder).expanduser() if wanted.folder else cache_folder("features")
    dtype = torch.bfloat16 if wanted.dtype is FeatureDtype.bfloat16 else None
    for backbone in backbones:
        store = FeatureStore(folder, int(wanted.max_gb * 1e9), comm.get_world_size())
        backbone.keep_features(FeatureCache(store, dtype))
    logger.info("features of the frozen backbone are kept in %s", folder)


class FeatureReport(TrainerHook):
    """Says at a run's end how many images were found among the features that are kept.

    Args:
        model: whose backbones have caches.
    """

    def __init__(self, model: nn.Module):
        self.caches = [backbone.feature_cache for backbone in _backbones(model) if backbone.feature_cache is not None]

    def after_train(self):
        found, computed = (sum(getattr(cache, name) for cache in self.caches) for name in ("found", "computed"))
        share = found / max(found + computed, 1)
        logger.info("feature cache: %d of %d images found (%.0f %%)", found, found + computed, 100 * share)
        if computed > found and self.trainer.finished:
            logger.warning(
                "train.feature_cache found less than it computed, which gains nothing: the run saw its images once, "
                "or they are augmented and padded to ever other pixels; enabled=false saves the disk"
            )


def _backbones(model: nn.Module) -> list[TimmBackbone]:
    return [module for module in model.modules() if isinstance(module, TimmBackbone)]
