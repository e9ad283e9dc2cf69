"""A tiny DINOv2-type ViT with the whole DINO detector, from random weights on the generated shapes: the quickstart.

    python -m dinov2_detrex.data.shapes
    python tools/train_net.py --config-file projects/dino_dinov2/configs/shapes/dino_dinov2_tiny_shapes.py

Hardware it is meant for: any CPU. The README holds the result that was measured.
"""

from dinov2_detrex import get_config

from ..models.dino_dinov2 import model

dataloader = get_config("common/data/shapes.py").dataloader
optimizer = get_config("common/optim.py").AdamW
_run = get_config("common/schedule.py")
schedule, lr_multiplier, train = _run.schedule, _run.lr_multiplier, _run.train

# a ViT of 4 blocks, 192 wide, that trains
vit = model.backbone.net
vit.model_name = "vit_small_patch14_dinov2"
vit.pretrained = False
vit.freeze = False
vit.embed_dim, vit.depth, vit.num_heads = 192, 4, 3
vit.init_values = 1.0  # layer scale that lets a fresh network learn at once; the pretrained ones bring their own
vit.img_size = 128
del vit

# a detector of 2 + 2 layers, 128 wide, for a handful of objects
model.embed_dim = 128
model.num_classes = 3
model.num_queries = 50
model.dn_number = 20
model.select_box_nums_for_evaluation = 50
model.transformer.encoder.num_layers = 2
model.transformer.encoder.feedforward_dim = 256
model.transformer.encoder.num_heads = 4
model.transformer.decoder.num_layers = 2

dataloader.evaluator.output_dir = "${train.output_dir}"

optimizer.lr = 5e-4
optimizer.weight_decay = 1e-4
schedule.images_per_epoch = 3000
schedule.epochs = 10
schedule.decay_epoch = "${share:${.epochs},4,5}"  # 8
schedule.warmup_iters = 100

train.output_dir = "./output/dino_dinov2_tiny_shapes"
train.eval_period = 0  # once, at the end
train.checkpointer.period = 500
train.seed = 0
train.clip_grad.enabled = True
