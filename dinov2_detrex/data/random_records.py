"""Records without a data set: random pixels and boxes, the same from call to call, for measurements."""

import torch
from detectron2.structures import Boxes, Instances

from dinov2_detrex.runtime.errors import UsageError

MEAN_BOXES = 7  # of an image of COCO


def random_inputs(
    image_hw: tuple[int, int], batch: int, channels: int, boxes_per_image: int = MEAN_BOXES
) -> list[dict]:
    """Training records with random pixels and boxes of class 0, the same from call to call.

    Raises:
        UsageError: there is no pixel or no image.
    """
    if min(*image_hw, batch) < 1:
        raise UsageError(f"{batch} images of {image_hw[0]} x {image_hw[1]} pixels: nothing to measure")
    generator, records = torch.Generator().manual_seed(0), []
    height, width = image_hw
    for _ in range(batch):
        corners = torch.rand(boxes_per_image, 2, 2, generator=generator).sort(dim=1).values  # two points (x, y)
        boxes = Boxes((corners * torch.tensor([width, height])).flatten(1))
        labels = torch.zeros(boxes_per_image, dtype=torch.int64)
        image = torch.randint(0, 256, (channels, height, width), dtype=torch.uint8, generator=generator)
        instances = Instances(image_hw, gt_boxes=boxes, gt_classes=labels)
        records.append({"image": image, "instances": instances, "height": height, "width": width})
    return records
