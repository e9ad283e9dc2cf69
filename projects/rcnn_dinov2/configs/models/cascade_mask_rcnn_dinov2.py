"""Cascade Mask R-CNN (arXiv 1712.00726) on a DINOv2 ViT: three box heads that refine each other, ViTDet's mask head.

The stages' thresholds and box codings are those of detectron2's model zoo; each head is built as ViTDet's single one.
"""

import copy

from detectron2 import model_zoo

from .mask_rcnn_dinov2 import model

_heads = model.roi_heads
_stages = model_zoo.get_config("common/models/cascade_rcnn.py").model.roi_heads
_box_head = _heads.pop("box_head")
for _single in ("box_predictor", "proposal_matcher"):
    del _heads[_single]
_heads._target_ = _stages._target_
_heads.box_heads = [copy.deepcopy(_box_head) for _ in _stages.box_heads]
_heads.box_predictors = _stages.box_predictors
_heads.proposal_matchers = _stages.proposal_matchers
