"""What do arguments do that no docstring of this project speaks of: torch's, and keys of the recipes themselves?"""

KINDS = {
    "data.path": "a folder, or a list of folders",
    "data.split": "a number between 0 and 1, or null",
    "data.split_seed": "a whole number of at least 0",
    "data.root": "a folder",
    "data.train.json": "a JSON in COCO's form, or FOLDER#part",
    "data.train.images": "a folder, or null",
    "data.val.json": "a JSON in COCO's form, or FOLDER#part",
    "data.val.images": "a folder, or null",
    "dataloader.image.size": "a whole number of pixels",
    "dataloader.image.short_sides": "a list of whole numbers of pixels",
    "dataloader.image.max_size": "a whole number of pixels",
    "norm_layer": "a class, or its name in timm",
    "device": "a device, or null",
    "dtype": "a type of torch, or null",
}
OF_DATA = {
    "data.path": "The data set, in COCO's, YOLO's or Pascal VOC's form; several of the same classes are joined.",
    "data.split": "The share of the images that is held out for validation, where the folder has no part for it.",
    "data.split_seed": "Another one holds other images out.",
    "data.root": "Where the JSONs are looked for that are not given.",
    "data.train.json": "The annotations to train on; classes and the length of an epoch come from them.",
    "data.train.images": "Where their images are; null where the format says it.",
    "data.val.json": "The annotations to evaluate on.",
    "data.val.images": "Where their images are; null where the format says it.",
    "dataloader.image.size": "The largest short side in training, and the short side in evaluation.",
    "dataloader.image.short_sides": "The short sides that training chooses from.",
    "dataloader.image.max_size": "The limit of the long side.",
}
_ELSEWHERE = {
    "num_groups": "Groups of channels that are normalised together.",
    "num_channels": "Channels of the map.",
    "eps": "Keeps a division finite.",
    "affine": "Learn a factor and an offset for each channel.",
    "device": "Where the parameters are made.",
    "dtype": "Their type.",
    "params": "The parameters in groups.",
    "lr": "The learning rate, before `lr_multiplier` and `train.scale_lr`.",
    "betas": "Shares of the running means of the gradient and of its square that stay in a step.",
    "weight_decay": "How strongly weights are pulled to 0 in each step, times the learning rate.",
    "amsgrad": "Use the largest running mean of the squares so far.",
    "maximize": "Climb instead of descending; a loss needs false.",
    "foreach": "Update all tensors in few kernels; null lets torch choose.",
    "capturable": "Allow the step in a CUDA graph.",
    "differentiable": "Let gradients flow through the step.",
    "fused": "Update in one kernel; null lets torch choose.",
    "values": "Factors on the learning rate, one for each stretch.",
    "num_updates": "Not used with milestones that reach to the end, as those of the recipes do.",
    "milestones": "Where each stretch ends; only their ratios to the last one count.",
    "model": "Set by the trainer.",
}
_OF = {
    ("RandomFlip", "prob"): "How often an image is mirrored.",
    ("RandomFlip", "horizontal"): "Left and right change places.",
    ("RandomFlip", "vertical"): "Top and bottom do; then `horizontal` must be false.",
    ("GroupNorm", "bias"): "Learn the offset as well.",
    ("pyramid_shapes", "levels"): "Names of the pyramid's maps.",
    ("pyramid_shapes", "channels"): "Channels of each.",
    ("build_detection_test_loader", "dataset"): "The records.",
    ("build_detection_test_loader", "mapper"): "Applied to each record: reads and resizes the image.",
    ("build_detection_test_loader", "num_workers"): "Processes that read; 0 does it in this one.",
    ("build_detection_test_loader", "collate_fn"): "From a list of model inputs to a batch; null leaves the list.",
    ("DINO", "embed_dim"): "The width of every part of the detector, D.",
    ("DINO", "num_classes"): "Classes, K.",
    ("DINO", "num_queries"): "Objects that the decoder looks for in an image.",
    ("DINOCriterion", "num_classes"): "Classes, K.",
    ("DINOTransformer", "num_feature_levels"): "Levels of the pyramid.",
    ("DINOTransformerEncoder", "num_feature_levels"): "Levels of the pyramid.",
    ("DINOTransformerEncoder", "num_points"): "Points that a head samples on each level.",
    ("DINOTransformerDecoder", "num_feature_levels"): "Levels of the pyramid.",
    ("DINOTransformerDecoder", "num_points"): "Points that a head samples on each level.",
}


def effect_here(called: str, argument: str) -> str:
    """What an argument of a class of that name does, in words that serve the page better than its docstring's."""
    return _OF.get((called, argument), "")


def effect_elsewhere(argument: str) -> str:
    """What an argument of that name does anywhere; "" where nobody says."""
    return _ELSEWHERE.get(argument, "")
