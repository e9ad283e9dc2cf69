"""The same data set written in the forms that people have: YOLO's and Pascal VOC's folders, and COCO's JSON."""

import json
from pathlib import Path

import yaml


def yolo_line(label, bbox_xywh, width, height):
    x, y, w, h = bbox_xywh
    values = (x + w / 2) / width, (y + h / 2) / height, w / width, h / height
    return " ".join([str(label), *(f"{value:.8f}" for value in values)])


def write_yolo(root, documents, image_root):
    """`documents`: {split: COCO document with category ids 0..C-1}; the images are linked, under images/SPLIT."""
    root = Path(root)
    for split, document in documents.items():
        for folder in ("images", "labels"):
            (root / folder / split).mkdir(parents=True)
        for image in document["images"]:
            link(Path(image_root, image["file_name"]), root / "images" / split / image["file_name"])
            lines = [
                yolo_line(a["category_id"], a["bbox"], image["width"], image["height"])
                for a in document["annotations"]
                if a["image_id"] == image["id"]
            ]
            if lines:
                label_file = Path(root, "labels", split, image["file_name"]).with_suffix(".txt")
                label_file.write_text("\n".join(lines) + "\n")
    names = {entry["id"]: entry["name"] for entry in next(iter(documents.values()))["categories"]}
    parts = {split: f"images/{split}" for split in documents}
    (root / "data.yaml").write_text(yaml.safe_dump({**parts, "nc": len(names), "names": names}))
    return root


def write_coco(file, document):
    Path(file).write_text(json.dumps(document))
    return Path(file)


def link(source, target):
    target.symlink_to(Path(source).resolve())


def voc_object(name, xmin, ymin, xmax, ymax, difficult=0):
    box = "".join(
        f"<{key}>{value}</{key}>" for key, value in zip(("xmin", "ymin", "xmax", "ymax"), (xmin, ymin, xmax, ymax))
    )
    return f"<object>\n<name>{name}</name>\n<difficult>{difficult}</difficult>\n<bndbox>{box}</bndbox>\n</object>"


def voc_xml(objects=(), width=60, height=40, file_name="renamed.jpg"):
    size = f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
    return "\n".join([f"<annotation>\n<filename>{file_name}</filename>\n{size}", *objects, "</annotation>"])
