"""A tiny DINOv2-type ViT with the whole DINO detector, from random weights on the generated shapes: the quickstart.

    python -m dinov2_detrex.data.shapes
    python tools/train_net.py --config-file projects/dino_dinov2/configs/shapes/dino_dinov2_tiny_shapes.py

Hardware it is meant for: any CPU. docs/results.md has what was measured.
"""

from detectron2.config import LazyCall as L
from fvcore.common.param_scheduler import CosineParamScheduler

from dinov2_detrex import get_config

from ..models.dino_dinov2 import model

dataloader = get_config("common/data/shapes.py").dataloader
optimizer = get_config("common/optim.py").Muon  # from random weights it learns in half of AdamW's steps
_run = get_config("common/schedule.py")
schedule, lr_multiplier, train = _run.schedule, _run.lr_multiplier, _run.train

# a ViT of 4 blocks, 128 wide, that trains; from nothing, small patches learn shapes sooner than large ones
vit = model.backbone.net
vit.model_name = "vit_small_patch14_dinov2"
vit.pretrained = False
vit.freeze = False
vit.patch_size = 8
vit.img_size = 128  # the pictures' longest side
vit.embed_dim, vit.depth, vit.num_heads = 128, 4, 4
vit.init_values = 1.0  # layer scale that lets a fresh network learn at once; the pretrained ones bring their own
del vit
model.backbone.scale_factors = (1.0, 0.5, 0.25)  # and the pooled one: strides 8, 16, 32, 64

# a detector of 2 + 2 layers, 128 wide, for a handful of objects
model.embed_dim = 128
model.num_classes = 3
model.num_queries = "${d2d.at_least:30,${.max_objects}}"
model.select_box_nums_for_evaluation = "${.num_queries}"
model.dn_number = 30
model.transformer.encoder.num_layers = 2
model.transformer.encoder.feedforward_dim = 256
model.transformer.encoder.num_heads = 4
model.transformer.decoder.num_layers = 2
# cells propose boxes of 0.12 to 0.96 of the image, and the shapes are 0.2 to 0.6; 0.05, made for 800 pixels, is 6 here
model.transformer.proposal_size = 0.12
model.criterion.weight_dict.loss_class = 2.0  # telling the shapes apart is what takes longest here

optimizer.lr = 2e-3
optimizer.betas = (0.9, 0.98)
lr_multiplier.scheduler = L(CosineParamScheduler)(start_value=1.0, end_value=0.01)
dataloader.train.total_batch_size = 8
schedule.images_per_epoch = 4000
schedule.epochs = 3  # 1,500 iterations
schedule.warmup_iters = 100

train.output_dir = "./output/dino_dinov2_tiny_shapes"
train.eval_period = 0  # once, at the end
train.checkpointer.period = 500
train.seed = 0
train.clip_grad.enabled = True

dataloader.evaluator.output_dir = "${train.output_dir}"
