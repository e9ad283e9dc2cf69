"""What is in a data set: how many objects of which class and size, in how many images of which size."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from detectron2.structures import BoxMode
from tabulate import tabulate

from dinov2_detrex.data.source import Document
from dinov2_detrex.visualization.sheets import ground_truth_of

SMALL_PX, LARGE_PX = 32, 96  # COCO's bounds, as the side of a square of the same area


@dataclass
class DatasetStatistics:
    """Numbers of a data set of M images with N objects, crowds not counted.

    Attributes:
        class_names: C names.
        image_hw: (M, 2) pixels.
        boxes_xyxy: (N, 4) pixels of the original images.
        classes: (N,) class indices.
        image_of: (N,) index of each object's image, 0..M-1.
        crowds: (C,) number of crowd regions.
    """

    class_names: list[str]
    image_hw: np.ndarray
    boxes_xyxy: np.ndarray
    classes: np.ndarray
    image_of: np.ndarray
    crowds: np.ndarray

    @property
    def sides_px(self) -> np.ndarray:
        """(N,) square root of the boxes' areas."""
        sides = (self.boxes_xyxy[:, 2:] - self.boxes_xyxy[:, :2]).clip(0)
        return np.sqrt(sides.prod(axis=1))

    @property
    def objects_per_image(self) -> np.ndarray:
        """(M,)"""
        return np.bincount(self.image_of, minlength=len(self.image_hw))

    @property
    def centres_norm(self) -> np.ndarray:
        """(N, 2) x, y of the boxes' centres, as fractions of their images."""
        return (self.boxes_xyxy[:, :2] + self.boxes_xyxy[:, 2:]) / 2 / self.image_hw[self.image_of][:, ::-1]


def collect_statistics(records: Sequence[dict], class_names: Sequence[str]) -> DatasetStatistics:
    """Go through data set dicts once; records without sizes or annotations count as they are."""
    truths = [ground_truth_of(record) for record in records]
    boxes = np.concatenate([np.zeros((0, 4)), *(truth[0] for truth in truths)])
    classes = np.array([index for truth in truths for index in truth[1]], dtype=np.int64)
    crowd = np.array([flag for truth in truths for flag in truth[2]], dtype=bool)
    image_of = np.repeat(np.arange(len(records)), [len(truth[1]) for truth in truths])
    return DatasetStatistics(
        class_names=list(class_names),
        image_hw=np.array([(record["height"], record["width"]) for record in records], dtype=np.int64).reshape(-1, 2),
        boxes_xyxy=boxes[~crowd],
        classes=classes[~crowd],
        image_of=image_of[~crowd],
        crowds=np.bincount(classes[crowd], minlength=len(class_names)),
    )


def statistics_of(document: Document) -> DatasetStatistics:
    """The same of a document in COCO's form that the check has repaired."""
    categories = sorted(document["categories"], key=lambda entry: entry["id"])
    index_of = {entry["id"]: index for index, entry in enumerate(categories)}
    records = {image["id"]: image | {"annotations": []} for image in document["images"]}
    for annotation in document["annotations"]:
        entry = annotation | {"bbox_mode": BoxMode.XYWH_ABS, "category_id": index_of[annotation["category_id"]]}
        records[annotation["image_id"]]["annotations"].append(entry)
    return collect_statistics(list(records.values()), [str(entry["name"]) for entry in categories])


def summarized(statistics: DatasetStatistics) -> dict[str, Any]:
    """The numbers of `describe_statistics` as plain values for JSON: None where a median is one of nothing."""
    per_image = statistics.objects_per_image
    everything = np.ones(len(statistics.classes), dtype=bool)
    classes = [
        {"name": name} | _numbers(statistics, statistics.classes == index) | {"crowds": int(statistics.crowds[index])}
        for index, name in enumerate(statistics.class_names)
    ]
    return {
        "images": len(per_image),
        "images_without_objects": int((per_image == 0).sum()),
        "objects_per_image": {
            "mean": float(per_image.mean()) if len(per_image) else 0.0,
            "max": int(per_image.max(initial=0)),
        },
        "image_sizes_hw": {"min": _extreme(statistics, np.min), "max": _extreme(statistics, np.max)},
        "all": _numbers(statistics, everything) | {"crowds": int(statistics.crowds.sum())},
        "classes": classes,
    }


def _extreme(statistics: DatasetStatistics, function: Callable) -> list[int] | None:
    """[height, width], each the least or greatest; None without images."""
    return function(statistics.image_hw, axis=0).tolist() if len(statistics.image_hw) else None


def _numbers(statistics: DatasetStatistics, which: np.ndarray) -> dict[str, Any]:
    """Of the objects chosen: images that show one, objects, by COCO's sizes, the median side."""
    sides = statistics.sides_px[which]
    small, large = int((sides < SMALL_PX).sum()), int((sides > LARGE_PX).sum())
    return {
        "images": len(np.unique(statistics.image_of[which])),
        "objects": len(sides),
        "small": small,
        "medium": len(sides) - small - large,
        "large": large,
        "median_side_px": float(np.median(sides)) if len(sides) else None,
    }


def describe_statistics(statistics: DatasetStatistics) -> str:
    """A line about the images, and a table with a row for each class and one for all."""
    per_image = statistics.objects_per_image
    if not len(per_image):
        return "no images"
    low, high = statistics.image_hw.min(axis=0), statistics.image_hw.max(axis=0)
    head = (
        f"{len(per_image)} images, {(per_image == 0).sum()} without objects; {len(statistics.classes)} objects, "
        f"{per_image.mean():.1f} an image, {per_image.max()} at most; heights {low[0]} to {high[0]}, "
        f"widths {low[1]} to {high[1]} pixels"
    )
    rows = [_row(statistics, name, statistics.classes == index) for index, name in enumerate(statistics.class_names)]
    rows = [row | {"crowds": int(count)} for row, count in zip(rows, statistics.crowds)]
    everything = _row(statistics, "all", np.ones(len(statistics.classes), dtype=bool))
    rows.append(everything | {"crowds": int(statistics.crowds.sum())})
    return f"{head}\n{tabulate(rows, headers='keys', floatfmt='.1f', tablefmt='simple')}"


def _row(statistics: DatasetStatistics, name: str, which: np.ndarray) -> dict:
    numbers = _numbers(statistics, which)
    total = max(numbers["objects"], 1)
    median = numbers["median_side_px"]
    return {
        "class": name,
        "images": numbers["images"],
        "objects": numbers["objects"],
        "% of all": 100 * numbers["objects"] / max(len(statistics.classes), 1),
        "median side / px": float("nan") if median is None else median,
        f"% < {SMALL_PX} px": 100 * numbers["small"] / total,
        f"% > {LARGE_PX} px": 100 * numbers["large"] / total,
    }
