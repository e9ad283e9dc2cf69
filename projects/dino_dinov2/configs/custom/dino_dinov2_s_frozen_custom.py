"""DINO on a frozen DINOv2-S for a small data set of your own, whose backbone computes each image once.

    python tools/train_net.py --config-file projects/dino_dinov2/configs/custom/dino_dinov2_s_frozen_custom.py \
        data.path=my/folder

The data are named as for dino_dinov2_s_custom.py. What differs is the augmentation: every image is resized so that its
longer side is `dataloader.image.size`, is mirrored or not, and is padded to a square of that side. So the frozen ViT
meets two inputs an image, whatever stands beside it in a batch. From the second meeting on a step costs the detector
alone: what the ViT gave is read from disk (`train.feature_cache`), in later runs on the same images too.

Gain: the ViT's share of a step, about a tenth here: of 6.4 s for one image of 512 pixels on one CPU thread 0.58 s were
the ViT, and reading took 0.01 s. A B (`model.backbone.net.model_name=vit_base_patch14_dinov2.lvd142m`) took 2.0 s of
its own. On a GPU a small ViT may be as fast as the disk.

Limits: the features of an image take 1.6 MB at 512 pixels, two of them an image with its mirror image, in float32 (half
with `train.feature_cache.dtype=bfloat16`): 6,000 images fill the 20 GB of `train.feature_cache.max_gb`. Images of other
shapes than the square carry padding through the detector. Without random sizes and crops a detector overfits sooner:
for more than some thousand images take dino_dinov2_s_custom.py. Changing the backbone, its precision, the image size,
the number of CPU threads or a version of torch or timm computes everything anew.

Hardware it is meant for: one CPU, or one GPU with 8 GB or more. Not yet trained.
"""

import detectron2.data.transforms as T
from detectron2.config import LazyCall as L

from .dino_dinov2_s_custom import data, dataloader, lr_multiplier, model, optimizer, schedule, train

dataloader.image.size = 512  # a multiple of the coarsest stride, 64
dataloader.image.max_size = "${.size}"  # of the longer side, also of the validation images
dataloader.train.mapper.augmentation = [
    L(T.RandomFlip)(),
    L(T.ResizeShortestEdge)(short_edge_length="${dataloader.image.size}", max_size="${dataloader.image.max_size}"),
]
dataloader.train.mapper.augmentation_with_crop = None

model.square_pad = True
model.backbone.square_pad = "${dataloader.image.size}"

train.feature_cache.enabled = True
train.output_dir = "./output/dino_dinov2_s_frozen_custom"
