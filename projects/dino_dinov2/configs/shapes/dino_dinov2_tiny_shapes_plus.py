"""The quickstart's tiny detector with first boxes of the objects' size: the plus quickstart.

    python -m dinov2_detrex.data.shapes
    python tools/train_net.py --config-file projects/dino_dinov2/configs/shapes/dino_dinov2_tiny_shapes_plus.py

Hardware it is meant for: any CPU. Not yet trained to its end; benchmarks/RESULTS.md has a third of its schedule.
"""

from .dino_dinov2_tiny_shapes import dataloader, lr_multiplier, model, optimizer, schedule, train

# cells propose boxes of 0.12 to 0.96 of the image, and the shapes are 0.2 to 0.6; 0.05, made for 800 pixels, is 6 here
model.transformer.proposal_size = 0.12

train.output_dir = "./output/dino_dinov2_tiny_shapes_plus"
