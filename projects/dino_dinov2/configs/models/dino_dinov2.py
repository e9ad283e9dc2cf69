"""DINO on a DINOv2 ViT with a simple feature pyramid: the model that every recipe starts from.

What follows from another value is an interpolation: the patch size gives the names and strides of the levels, the
level names give the neck's inputs and the number of levels, `embed_dim` the width of every part.
"""

import torch.nn as nn
from detectron2.config import LazyCall as L
from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from detrex.layers import PositionEmbeddingSine
from detrex.modeling.neck import ChannelMapper

from dinov2_detrex.backbone import SimpleFeaturePyramid, TimmBackbone
from dinov2_detrex.config import pyramid_shapes
from dinov2_detrex.detector import (
    DINO,
    DINOCriterion,
    DINOTransformer,
    DINOTransformerDecoder,
    DINOTransformerEncoder,
    HungarianMatcher,
)

model = L(DINO)(
    backbone=L(SimpleFeaturePyramid)(
        net=L(TimmBackbone)(
            model_name="vit_base_patch14_dinov2.lvd142m",
            features_only=True,
            pretrained=True,
            checkpoint_path="",  # a local file with the weights, instead of the download
            in_channels=3,
            out_indices=(-1,),
            patch_size=16,  # 14 is native; other sizes resample the patch kernel on loading
            img_size="${d2d.native_img_size:${.model_name},${.patch_size}}",  # 592: the 37 x 37 positions stay
            freeze=True,
        ),
        in_feature="p-1",
        out_channels="${..embed_dim}",
        scale_factors=(2.0, 1.0, 0.5),
        top_block=L(LastLevelMaxPool)(),
        norm="LN",
        square_pad=0,
    ),
    position_embedding=L(PositionEmbeddingSine)(
        num_pos_feats="${d2d.half:${..embed_dim}}",
        temperature=10000,
        normalize=True,
        offset=-0.5,
    ),
    neck=L(ChannelMapper)(
        # the top block adds one level; a recipe without it sets the last argument to 0
        in_features="${d2d.pyramid_levels:${..backbone.net.patch_size},${..backbone.scale_factors},1}",
        input_shapes=L(pyramid_shapes)(levels="${..in_features}", channels="${...backbone.out_channels}"),
        out_channels="${..embed_dim}",
        num_outs="${d2d.count:${.in_features}}",
        kernel_size=1,
        norm_layer=L(nn.GroupNorm)(num_groups=32, num_channels="${..out_channels}"),
    ),
    transformer=L(DINOTransformer)(
        encoder=L(DINOTransformerEncoder)(
            embed_dim="${...embed_dim}",
            num_heads=8,
            feedforward_dim=2048,
            attn_dropout=0.0,
            ffn_dropout=0.0,
            num_layers=6,
            post_norm=False,
            num_feature_levels="${..num_feature_levels}",
        ),
        decoder=L(DINOTransformerDecoder)(
            embed_dim="${...embed_dim}",
            num_heads="${..encoder.num_heads}",
            feedforward_dim="${..encoder.feedforward_dim}",
            attn_dropout=0.0,
            ffn_dropout=0.0,
            num_layers=6,
            return_intermediate=True,
            num_feature_levels="${..num_feature_levels}",
            use_checkpoint=False,
        ),
        num_feature_levels="${..neck.num_outs}",
        two_stage_num_proposals="${..num_queries}",
    ),
    embed_dim=256,
    num_classes=80,
    max_objects=None,  # 1000: so many in an image can be found, and are counted by the evaluator; sets three numbers
    num_queries="${d2d.at_least:900,${.max_objects}}",
    aux_loss=True,
    criterion=L(DINOCriterion)(
        num_classes="${..num_classes}",
        matcher=L(HungarianMatcher)(
            cost_class=2.0,
            cost_bbox=5.0,
            cost_giou=2.0,
            cost_class_type="focal_loss_cost",
            alpha="${..alpha}",
            gamma="${..gamma}",
        ),
        # by base name; the losses of the other layers, of the encoder and of the denoising part take the same weights
        weight_dict=dict(loss_class=1.0, loss_bbox=5.0, loss_giou=2.0),
        loss_class_type="focal_loss",
        alpha=0.25,
        gamma=2.0,
        two_stage_binary_cls=False,
    ),
    dn_number=100,
    label_noise_ratio=0.5,
    box_noise_scale=1.0,
    pixel_mean=[123.675, 116.280, 103.530],
    pixel_std=[58.395, 57.120, 57.375],
    select_box_nums_for_evaluation="${d2d.at_least:300,${.max_objects}}",
    input_format="RGB",
)
