"""A COCO-format data set small enough for a test: images of several sizes, class ids with gaps, a crowd."""

import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image

CATEGORIES = ((7, "cube"), (3, "ball"), (12, "cone"))  # unordered and with gaps: contiguous are ball, cube, cone
SIZES_HW = ((40, 60), (50, 30), (36, 36), (45, 64), (33, 21))


def box_annotation(number: int, image_id: int, category_id: int, bbox, **extra) -> dict:
    """One entry of "annotations", with what pycocotools needs."""
    entry = {"id": number, "image_id": image_id, "category_id": category_id, "bbox": list(bbox)}
    return {**entry, "area": bbox[2] * bbox[3], "iscrowd": 0, **extra}


def coco_content(num_images: int = 5) -> dict:
    """Image ids 1, 4, 7, ... in descending order; image i has i % 3 objects; the last object is a crowd."""
    images, annotations = [], []
    for i in range(num_images):
        height, width = SIZES_HW[i % len(SIZES_HW)]
        images.append({"id": 3 * i + 1, "file_name": f"{i}.png", "height": height, "width": width})
        for k in range(i % 3):
            bbox = (2 + k, 3.5, 10 + k, 12)
            annotations.append(box_annotation(len(annotations) + 1, 3 * i + 1, CATEGORIES[(i + k) % 3][0], bbox))
    annotations[-1]["iscrowd"] = 1
    categories = [{"id": number, "name": name} for number, name in CATEGORIES]
    return {"images": images[::-1], "annotations": annotations, "categories": categories}


def write_coco(folder: Path, content: dict, name: str = "instances.json") -> str:
    """Write the JSON and noise images of the declared sizes; returns the JSON's path."""
    rng = np.random.RandomState(0)
    for image in content["images"]:
        shape = (image["height"], image["width"], 3)
        Image.fromarray(rng.randint(0, 256, shape, dtype=np.uint8)).save(folder / image["file_name"])
    path = folder / name
    path.write_text(json.dumps(content))
    return str(path)


def slightly_wrong_model(content: dict, contiguous_ids: dict[int, int]):
    """A function from inputs to outputs as a detector's: the true boxes, each moved by its number in half pixels."""
    from detectron2.structures import Boxes, Instances

    def predict(record: dict) -> dict:
        found = [a for a in content["annotations"] if a["image_id"] == record["image_id"]]
        boxes = np.array([a["bbox"] for a in found], dtype=float).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        numbers = torch.tensor([a["id"] for a in found], dtype=torch.float32)
        instances = Instances(
            (record["height"], record["width"]), pred_boxes=Boxes(boxes + numbers.numpy()[:, None] / 2)
        )
        instances.scores = 1 / (1 + numbers)
        instances.pred_classes = torch.tensor([contiguous_ids[a["category_id"]] for a in found], dtype=torch.int64)
        return {"instances": instances}

    return lambda inputs: [predict(record) for record in inputs]
