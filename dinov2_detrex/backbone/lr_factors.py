"""At which fraction of the learning rate does each parameter of a pretrained ViT train?

Layer-wise decay as in BEiT (arXiv 2106.08254, section 3.1) and ViTDet: the deeper the block, the closer to the full
rate. The objects here are called with a parameter's full name and go to `optimizer.params.lr_factor_func`.
"""

import re
from collections.abc import Sequence

from dinov2_detrex.backbone.vit_families import FAMILIES
from dinov2_detrex.runtime.values import MOST_LAYERS, require_number, require_whole


def get_vit_lr_decay_rate(name: str, lr_decay_rate: float = 1.0, num_layers: int = 12) -> float:
    """detectron2's rule, for configs that name it: `lr_decay_rate ** (num_layers + 1 - layer)`.

    The layer is 0 for the patch and positional embedding, i + 1 for block i, and num_layers + 1 (factor 1) for
    everything else, the class and register tokens included; `BackboneLrFactor` knows those too.

    Args:
        name: full name; only those that begin with "backbone" are slowed.
        lr_decay_rate: factor from one layer to the one before it.
        num_layers: blocks of the ViT.
    """
    layer = num_layers + 1
    if name.startswith("backbone"):
        block = re.search(r"\.blocks\.(\d+)\.", name)
        if ".pos_embed" in name or ".patch_embed" in name:
            layer = 0
        elif block and ".residual." not in name:
            layer = int(block.group(1)) + 1
    return lr_decay_rate ** (num_layers + 1 - layer)


class BackboneLrFactor:
    """Layer-wise decay and a factor for the pretrained ViT, which leave the pyramid and the detector at 1.

    In a config: `optimizer.params.lr_factor_func = L(BackboneLrFactor)(lr_decay_rate=0.7, num_layers=12)`.

    Args:
        lr_decay_rate: factor from one layer to the one before it; 1 for no decay.
        num_layers: blocks of the ViT (12 in DINOv2-S and B, 24 in L, 40 in g).
        backbone_factor: on top of that, for every parameter of the ViT.
        marker: what the name of a parameter of the ViT contains; `TimmBackbone` holds its model as `timm_model`.
        slow: parts of names outside the ViT that train at `slow_factor`; Deformable DETR (Zhu et al. 2021, A.4) has
            0.1 for "sampling_offsets".
        slow_factor: of those.

    Raises:
        UsageError: a negative rate or factor, or no layers.
    """

    FIRST_LAYER = frozenset(name for family in FAMILIES for name in family.before_blocks)

    def __init__(
        self,
        lr_decay_rate: float = 1.0,
        num_layers: int = 12,
        backbone_factor: float = 1.0,
        marker: str = "timm_model.",
        slow: Sequence[str] = (),
        slow_factor: float = 0.1,
    ):
        require_number(self, 0, lr_decay_rate=lr_decay_rate, backbone_factor=backbone_factor, slow_factor=slow_factor)
        require_whole(self, 1, MOST_LAYERS, num_layers=num_layers)
        self.lr_decay_rate, self.num_layers = lr_decay_rate, num_layers
        self.backbone_factor, self.marker = backbone_factor, marker
        self.slow, self.slow_factor = tuple(slow), slow_factor

    def layer_of(self, name: str) -> int:
        """0 for what comes before the blocks, i + 1 for block i, num_layers + 1 for what comes after.

        Raises:
            ValueError: the name is of a block that a model of `num_layers` blocks has not.
        """
        inner = name.split(self.marker, 1)[-1].removeprefix("model.")
        if inner.split(".")[0] in self.FIRST_LAYER:
            return 0
        block = re.match(r"blocks\.(\d+)\.", inner)
        if block and int(block.group(1)) >= self.num_layers:
            raise ValueError(f"{name} is beyond the {self.num_layers} layers of {type(self).__name__}; set num_layers")
        return int(block.group(1)) + 1 if block else self.num_layers + 1

    def __call__(self, name: str) -> float:
        """The factor for the parameter of that full name; outside the ViT 1.0, or that of the slow ones."""
        if self.marker not in name:
            return self.slow_factor if any(part in name for part in self.slow) else 1.0
        return self.backbone_factor * self.lr_decay_rate ** (self.num_layers + 1 - self.layer_of(name))
