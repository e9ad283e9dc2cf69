"""Mask R-CNN on a DINOv2 ViT: the ViTDet model of detectron2's model zoo (arXiv 2203.16527) with this backbone in it.

The pyramid, the heads and their numbers are the zoo's, so this needs the real detectron2. DINOv2 was trained on
ImageNet's pixel statistics in the order RGB.
"""

from detectron2 import model_zoo
from detectron2.config import LazyCall as L

from dinov2_detrex.backbone import SimpleFeaturePyramid, TimmBackbone

model = model_zoo.get_config("common/models/mask_rcnn_vitdet.py").model
model.backbone.net = L(TimmBackbone)(
    model_name="vit_base_patch14_dinov2.lvd142m",
    pretrained=True,
    checkpoint_path="",  # a local file with the weights, instead of the download
    out_indices=(-1,),
    patch_size=16,  # the anchors and the poolers are made for strides of 4 to 64, which the native 14 has not
    img_size="${d2d.native_img_size:${.model_name},${.patch_size}}",  # 592: the 37 x 37 positions stay
    window_size=16,  # cells: 4 x 4 windows of the 64 x 64 grid of 1024 pixels; every third block looks at all of it
    drop_path_rate=0.1,
    use_act_checkpoint=True,
)
model.backbone.in_feature = "p-1"
model.backbone._target_ = SimpleFeaturePyramid  # the same weights; images of any size are padded to what it tiles
model.pixel_mean = [123.675, 116.280, 103.530]
model.pixel_std = [58.395, 57.120, 57.375]
model.input_format = "RGB"
