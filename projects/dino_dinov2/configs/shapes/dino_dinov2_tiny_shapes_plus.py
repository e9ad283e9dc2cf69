"""The quickstart's tiny detector with what was measured to lift it: the plus quickstart.

    python -m dinov2_detrex.data.shapes
    python tools/train_net.py --config-file projects/dino_dinov2/configs/shapes/dino_dinov2_tiny_shapes_plus.py

Hardware it is meant for: any CPU. Not yet trained to its end; benchmarks/RESULTS.md has a third of its schedule.
"""

from .dino_dinov2_tiny_shapes import dataloader, lr_multiplier, model, optimizer, schedule, train

# every object is found four times more in training, by groups of queries that evaluation does not have
model.transformer.one_to_many_groups = 4

train.model_ema.enabled = True
train.model_ema.decay = 0.99
train.output_dir = "./output/dino_dinov2_tiny_shapes_plus"
