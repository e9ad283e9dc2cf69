"""A COCO-format data set on the disk, made from a few lines, and sound unless a test says otherwise."""

import json

import numpy as np
from PIL import Image

CATEGORIES = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]


def noise_picture(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


class CocoFolder:
    """`images/` and `train.json` under a root; the document can be edited before `write`."""

    def __init__(self, root):
        self.root, self.images, self.json_file = root, root / "images", root / "train.json"
        self.images.mkdir(parents=True)
        self.document = {"images": [], "annotations": [], "categories": [dict(entry) for entry in CATEGORIES]}

    def add_image(self, image_id=1, file_name=None, width=60, height=40, save=True, **entry):
        file_name = file_name or f"{image_id}.jpg"
        if save:
            noise_picture(width, height).save(self.images / file_name)
        self.document["images"].append(
            {"id": image_id, "file_name": file_name, "width": width, "height": height, **entry}
        )
        return self.images / file_name

    def add_box(self, bbox, image_id=1, category_id=1, **changes):
        annotation = {"id": len(self.document["annotations"]) + 1, "image_id": image_id, "category_id": category_id}
        annotation |= {"bbox": list(bbox), "area": 100.0, "iscrowd": 0} | changes
        self.document["annotations"].append({k: v for k, v in annotation.items() if v is not None})

    def write(self):
        self.json_file.write_text(json.dumps(self.document))
        return self
