"""A tiny DINOv2-type ViT with the whole Mask R-CNN, from random weights on the generated shapes and their outlines.

    python -m dinov2_detrex.data.shapes
    python tools/train_net.py --config-file projects/rcnn_dinov2/configs/shapes/mask_rcnn_dinov2_tiny_shapes.py

Needs the real detectron2. Hardware it is meant for: any CPU. Not yet trained to the end.
"""

from detectron2.config import LazyCall as L
from detectron2.evaluation import COCOEvaluator
from detectron2.layers import ShapeSpec
from fvcore.common.param_scheduler import CosineParamScheduler

from dinov2_detrex import get_config

from ..models.mask_rcnn_dinov2 import model

dataloader = get_config("common/data/shapes.py").dataloader
optimizer = get_config("common/optim.py").AdamW
_run = get_config("common/schedule.py")
schedule, lr_multiplier, train = _run.schedule, _run.lr_multiplier, _run.train

for _mapper in (dataloader.train.mapper, dataloader.test.mapper):
    _mapper.mask_on = True
    _mapper.img_format = "${model.input_format}"
dataloader.evaluator = L(COCOEvaluator)(dataset_name="${..test.dataset.names}", output_dir="${train.output_dir}")
dataloader.train.total_batch_size = 8

# a ViT of 4 blocks, 128 wide, on small patches, from which the pyramid makes the strides of 4 to 64 as well
model.backbone.net.update(
    model_name="vit_small_patch14_dinov2",
    pretrained=False,
    patch_size=8,
    img_size=128,  # the pictures' longest side
    embed_dim=128,
    depth=4,
    num_heads=4,
    init_values=1.0,  # layer scale that lets a fresh network learn at once
    window_size=0,
    drop_path_rate=0.0,
    use_act_checkpoint=False,
)
model.backbone.scale_factors = (2.0, 1.0, 0.5, 0.25)
model.backbone.square_pad = 0

# heads 64 wide, for a handful of objects of 20 to 80 pixels
model.backbone.out_channels = 64
model.proposal_generator.head.in_channels = 64
model.proposal_generator.anchor_generator.sizes = [[16], [32], [48], [64], [96]]
model.proposal_generator.batch_size_per_image = 64
model.proposal_generator.pre_nms_topk = (200, 100)
model.proposal_generator.post_nms_topk = (100, 50)
model.roi_heads.num_classes = 3
model.roi_heads.batch_size_per_image = 64
model.roi_heads.box_head.update(input_shape=ShapeSpec(channels=64, height=7, width=7), conv_dims=[64], fc_dims=[128])
model.roi_heads.box_predictor.input_shape = ShapeSpec(channels=128)
model.roi_heads.mask_head.update(input_shape=ShapeSpec(channels=64, height=14, width=14), conv_dims=[64, 64])

optimizer.lr = 1e-3
lr_multiplier.scheduler = L(CosineParamScheduler)(start_value=1.0, end_value=0.01)
schedule.images_per_epoch = 4000
schedule.epochs = 3  # 1,500 iterations
schedule.warmup_iters = 100

train.output_dir = "./output/mask_rcnn_dinov2_tiny_shapes"
train.eval_period = 0  # once, at the end
train.checkpointer.period = 500
train.seed = 0
