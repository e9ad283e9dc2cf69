"""What should a matched query's class score be, where it is to tell how good the query's box is?

A detector ranks its boxes by their class scores, so a score that follows the box's overlap ranks well-placed boxes
first (Zhang et al. 2021, VarifocalNet, section 3). A rule replaces the target 1 of a matched query; all other logits
stay background, p^gamma (-log(1 - p)) times a factor.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class QualityRule:
    """The class loss of a matched query: weight x binary cross-entropy with a soft target.

    Attributes:
        target: (score p, IoU, alpha, gamma) -> target in 0..1; p and IoU are of one shape and carry no gradient.
        weight: the same arguments -> weight of each matched query.
        background_alpha: alpha -> the alpha of `focal_background`, whose factor is 1 - alpha.
    """

    target: Callable[[Tensor, Tensor, float, float], Tensor]
    weight: Callable[[Tensor, Tensor, float, float], Tensor | float]
    background_alpha: Callable[[float], float]


def _aligned(p: Tensor, iou: Tensor, alpha: float, gamma: float) -> Tensor:
    return p**alpha * iou ** (1 - alpha)


def _powered_iou(p: Tensor, iou: Tensor, alpha: float, gamma: float) -> Tensor:
    return iou**gamma


def _iou(p: Tensor, iou: Tensor, alpha: float, gamma: float) -> Tensor:
    return iou


def _one(p: Tensor, iou: Tensor, alpha: float, gamma: float) -> float:
    return 1.0


def _none(alpha: float) -> float:
    return 0.0


def _same(alpha: float) -> float:
    return alpha


RULES: Mapping[str, QualityRule] = {  # by the name that a criterion's `loss_class_type` gives
    "ia_bce_loss": QualityRule(_aligned, _one, _none),  # IoU-aware BCE: Cai et al. 2023 (Align-DETR), section 3.2
    "mal_loss": QualityRule(_powered_iou, _one, _none),  # matchability-aware: Huang et al. 2024 (DEIM), equation 3
    "varifocal_loss": QualityRule(_iou, _iou, _same),  # Zhang et al. 2021 (VarifocalNet), equation 2
}
