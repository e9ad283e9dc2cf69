"""Detectors of every kind of backbone that is exported, small enough for a test, with weights that all matter."""

from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from golden_numbers import fill_from_names
from tiny_dino import tiny_dino
from tiny_vits import DINOV3, PLAIN, REGISTERS, TINY, TINY_DINOV3, randomise

from dinov2_detrex.backbone import SimpleFeaturePyramid, TimmBackbone

KINDS = {
    "hub": dict(model_name=PLAIN, patch_size=16, img_size=128),
    "timm": dict(model_name=PLAIN, patch_size=16, img_size=128, pos_embed="timm"),
    "patch 14": dict(model_name=PLAIN, patch_size=14, img_size=112),
    "registers": dict(model_name=REGISTERS, patch_size=16, img_size=128),
    "DINOv3": dict(model_name=DINOV3, patch_size=16),
    "windows": dict(model_name=PLAIN, patch_size=16, img_size=128, window_size=3),
    "DINOv3 windows": dict(model_name=DINOV3, patch_size=16, window_size=3),
}


def small_detector(kind: str, **kwargs):
    """A detector in evaluation mode; sizes are multiples of 64 px, of 56 px with patch 14."""
    shape = TINY_DINOV3 if "DINOv3" in kind else TINY
    net = randomise(TimmBackbone(out_indices=(-1,), **{**shape, **KINDS[kind]}))
    pyramid = SimpleFeaturePyramid(
        net=net,
        in_feature="p-1",
        out_channels=64,
        scale_factors=(2.0, 1.0, 0.5),
        top_block=LastLevelMaxPool(),
        norm="LN",
    )
    model = tiny_dino(pyramid, **{"embed_dim": 64, "num_heads": 4, "num_queries": 20, **kwargs})
    for name, child in model.named_children():
        if name != "backbone":
            fill_from_names(child)
    return model.eval()
