"""Overrides that make a recipe of an R-CNN small enough for a test: every part stays, and every switch that is set."""

TINY_RCNN = [
    "model.backbone.net.pretrained=false",
    "model.backbone.net.embed_dim=48",
    "model.backbone.net.depth=3",
    "model.backbone.net.num_heads=3",
    "model.backbone.net.window_size=2",
    "model.proposal_generator.batch_size_per_image=16",
    "model.proposal_generator.pre_nms_topk=[50,50]",
    "model.proposal_generator.post_nms_topk=[20,20]",
    "model.roi_heads.batch_size_per_image=16",
    "dataloader.image.size=64",
    "dataloader.train.num_workers=0",
    "dataloader.test.num_workers=0",
]
