"""The detector of the golden files, and small ones like it: how the tests build them."""

import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from detectron2.structures import Boxes, Instances
from detrex.layers import PositionEmbeddingSine
from detrex.modeling.neck import ChannelMapper
from golden_numbers import fill_from_names
from pooling_backbone import PoolingBackbone
from torch import nn

import dinov2_detrex  # noqa: F401  makes detectron2 and detrex importable
from dinov2_detrex.backbone import SimpleFeaturePyramid, TimmBackbone
from dinov2_detrex.detector import (
    DINO,
    DINOCriterion,
    DINOTransformer,
    DINOTransformerDecoder,
    DINOTransformerEncoder,
    HungarianMatcher,
)

SMALL = dict(embed_dim=32, num_heads=4, num_queries=12, neck={"norm_layer": None})  # with PoolingBackbone
BASE_WEIGHTS = {"loss_class": 1.0, "loss_bbox": 5.0, "loss_giou": 2.0}


def weight_dict(num_layers: int = 6) -> dict[str, float]:
    """The weights as detrex's configs spell them out: 42 entries for 6 layers."""
    base = {**BASE_WEIGHTS, **{f"{key}_dn": value for key, value in BASE_WEIGHTS.items()}}
    endings = ["", "_enc", *(f"_{i}" for i in range(num_layers - 1))]
    return {key + ending: value for key, value in base.items() for ending in endings}


def tiny_backbone(out_channels: int = 256) -> SimpleFeaturePyramid:
    net = TimmBackbone(
        model_name="vit_small_patch14_dinov2",
        features_only=True,
        pretrained=False,
        in_channels=3,
        out_indices=(-1,),
        embed_dim=64,
        depth=3,
        num_heads=4,
        patch_size=16,
        img_size=128,
        init_values=1.0,
        pos_embed="timm",  # as in the run that the golden files record
    )
    return SimpleFeaturePyramid(
        net=net,
        in_feature="p-1",
        out_channels=out_channels,
        scale_factors=(2.0, 1.0, 0.5),
        top_block=LastLevelMaxPool(),
        norm="LN",
    )


def tiny_dino(
    backbone=None,
    *,
    embed_dim=256,
    num_heads=8,
    num_levels=4,
    num_points=4,
    num_classes=5,
    num_queries=30,
    encoder_layers=1,
    decoder_layers=2,
    criterion=None,
    encoder=None,
    decoder=None,
    transformer=None,
    neck=None,
    **kwargs,
) -> DINO:
    """The golden detector unless told otherwise; the dicts give a part's further arguments."""
    backbone = tiny_backbone(embed_dim) if backbone is None else backbone
    sizes = dict(
        embed_dim=embed_dim,
        num_heads=num_heads,
        feedforward_dim=64,
        attn_dropout=0.0,
        ffn_dropout=0.0,
        num_feature_levels=num_levels,
        num_points=num_points,
    )
    return DINO(
        backbone=backbone,
        position_embedding=PositionEmbeddingSine(embed_dim // 2, temperature=10000, normalize=True, offset=-0.5),
        neck=_neck(backbone.output_shape(), embed_dim, num_levels, neck or {}),
        transformer=DINOTransformer(
            encoder=DINOTransformerEncoder(num_layers=encoder_layers, **sizes, **(encoder or {})),
            decoder=DINOTransformerDecoder(
                num_layers=decoder_layers, **{"use_checkpoint": False, **sizes, **(decoder or {})}
            ),
            num_feature_levels=num_levels,
            two_stage_num_proposals=num_queries,
            **(transformer or {}),
        ),
        embed_dim=embed_dim,
        num_classes=num_classes,
        num_queries=num_queries,
        criterion=_criterion(num_classes, criterion or {}),
        **{"select_box_nums_for_evaluation": 20, "dn_number": 12, "device": "cpu", **kwargs},
    )


def _neck(shapes, embed_dim, num_levels, arguments) -> ChannelMapper:
    sizes = dict(out_channels=embed_dim, kernel_size=1, num_outs=num_levels)
    input_shapes = {name: ShapeSpec(channels=shape.channels) for name, shape in shapes.items()}
    named = dict(input_shapes=input_shapes, in_features=list(shapes), norm_layer=nn.GroupNorm(32, embed_dim))
    return ChannelMapper(**{**sizes, **named, **arguments})


def _criterion(num_classes, arguments) -> DINOCriterion:
    weights = {} if "weight_dict" in arguments else {"weight_dict": weight_dict()}
    matcher = HungarianMatcher(cost_class=2.0, cost_bbox=5.0, cost_giou=2.0)
    return DINOCriterion(**{"num_classes": num_classes, "matcher": matcher, **weights, **arguments})


def record(image: torch.Tensor, boxes=None, classes=(), **extra) -> dict:
    """A model input: an image (C, H, W), and for training boxes XYXY in pixels with their classes."""
    if boxes is None:
        return {"image": image, **extra}
    instances = Instances(tuple(image.shape[-2:]))
    instances.gt_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
    instances.gt_classes = torch.tensor(list(classes), dtype=torch.int64)
    return {"image": image, "instances": instances, **extra}


def small_dino(backbone=None, **kwargs):
    """A detector whose backbone and neck look at single cells, with weights of a size that lets every part speak."""
    model = tiny_dino(PoolingBackbone() if backbone is None else backbone, **{**SMALL, **kwargs})
    fill_from_names(model)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(2)
    return model


def image(height: int, width: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(3, height, width, generator=generator) * 255).byte()
