"""Which detections are right, by COCO's rules? Each detection with the object that it found, and what it lies near.

The rules are those of COCO's box AP (Lin et al. 2014) at one IoU and for objects of all sizes: in each image and class
the detections, best score first, each take the free object that they overlap most; one that takes none, but lies
within a crowd, does not count. The same detections count as for AP: so many best of an image and class.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pycocotools import mask as coco_masks

from dinov2_detrex.evaluation.box_ap import MAX_DETS
from dinov2_detrex.runtime.errors import UserError

FOUND_IOU = 0.5


@dataclass(frozen=True)
class Boxes:
    """N boxes of a data set, detections or objects.

    Attributes:
        image: (N,) index of the image.
        kind: (N,) index of the class.
        xywh: (N, 4) pixels of the original image.
        score: (N,) 0..1, of detections; 1 for objects.
        crowd: (N,) True for regions of many objects; never of detections.
    """

    image: np.ndarray
    kind: np.ndarray
    xywh: np.ndarray
    score: np.ndarray
    crowd: np.ndarray

    def __len__(self) -> int:
        return len(self.image)


@dataclass(frozen=True)
class Judged:
    """Detections beside the truth, judged at `FOUND_IOU`.

    Attributes:
        class_names: C names by index, of ascending category id.
        category_ids: C, the data set's own.
        images: the entries of the truth by index, of ascending id.
        detections: N, by image, then class, then falling score; in the order of the results where scores are equal.
        objects: M, by image; crowds too.
        match: (N,) index of the object that was found, -1 for none.
        ignored: (N,) True where a detection lies within a crowd of its class.
        own_iou, own: (N,) the largest IoU with an object of the detection's class, found by another or not, and its
            index; 0 and -1 without one. Crowds are left out.
        other_iou, other: (N,) the same for objects of other classes.
    """

    class_names: list[str]
    category_ids: list[int]
    images: list[dict[str, Any]]
    detections: Boxes
    objects: Boxes
    match: np.ndarray
    ignored: np.ndarray
    own_iou: np.ndarray
    own: np.ndarray
    other_iou: np.ndarray
    other: np.ndarray

    @property
    def found(self) -> np.ndarray:
        """(N,) True for detections that found an object."""
        return self.match >= 0

    @property
    def num_objects(self) -> np.ndarray:
        """(C,) objects of each class, crowds left out."""
        return np.bincount(self.objects.kind[~self.objects.crowd], minlength=len(self.class_names))


def judge(truth: Mapping[str, Any], results: Sequence[Mapping[str, Any]], max_dets: int = MAX_DETS) -> Judged:
    """Match detections with the truth.

    Args:
        truth: an instances document; boxes XYWH in pixels.
        results: COCO results; those of categories that the truth does not have do not count.
        max_dets: only so many best boxes of an image and class count.

    Raises:
        UserError: a result is of an image that the truth does not have.
    """
    categories = sorted(truth["categories"], key=lambda entry: entry["id"])
    images = sorted(truth["images"], key=lambda entry: entry["id"])
    class_of = {entry["id"]: index for index, entry in enumerate(categories)}
    image_of = {entry["id"]: index for index, entry in enumerate(images)}
    for row in results:
        if row["image_id"] not in image_of:
            raise UserError(f"there is a detection in the image {row['image_id']!r}, which is none of the data set's")
    detections = _best(_boxes([row for row in results if row["category_id"] in class_of], image_of, class_of), max_dets)
    objects = _boxes(truth["annotations"], image_of, class_of)
    objects = _taken(objects, np.argsort(objects.image, kind="stable"))
    return Judged(
        class_names=[str(entry["name"]) for entry in categories],
        category_ids=[entry["id"] for entry in categories],
        images=images,
        detections=detections,
        objects=objects,
        **_match(detections, objects, len(images)),
    )


def _boxes(rows: Sequence[Mapping[str, Any]], image_of: dict, class_of: dict) -> Boxes:
    return Boxes(
        image=np.array([image_of[row["image_id"]] for row in rows], dtype=np.int64),
        kind=np.array([class_of[row["category_id"]] for row in rows], dtype=np.int64),
        xywh=np.array([row["bbox"] for row in rows], dtype=np.float64).reshape(-1, 4),
        score=np.array([row.get("score", 1.0) for row in rows], dtype=np.float64),
        crowd=np.array([bool(row.get("iscrowd", 0)) for row in rows], dtype=bool),
    )


def _taken(boxes: Boxes, rows: np.ndarray) -> Boxes:
    return Boxes(*(values[rows] for values in (boxes.image, boxes.kind, boxes.xywh, boxes.score, boxes.crowd)))


def _best(boxes: Boxes, max_dets: int) -> Boxes:
    """Sorted, and the first so many of each image and class."""
    boxes = _taken(boxes, np.lexsort((-boxes.score, boxes.kind, boxes.image)))
    new = np.ones(len(boxes), dtype=bool)
    new[1:] = (np.diff(boxes.image) != 0) | (np.diff(boxes.kind) != 0)
    starts = np.flatnonzero(new)
    place = np.arange(len(boxes)) - np.repeat(starts, np.diff(np.append(starts, len(boxes))))
    return _taken(boxes, np.flatnonzero(place < max_dets))


def _match(detections: Boxes, objects: Boxes, num_images: int) -> dict[str, np.ndarray]:
    n = len(detections)
    found = {name: np.full(n, -1) for name in ("match", "own", "other")}
    found |= {name: np.zeros(n) for name in ("own_iou", "other_iou")} | {"ignored": np.zeros(n, dtype=bool)}
    edges = np.arange(num_images + 1)
    det_edges, obj_edges = np.searchsorted(detections.image, edges), np.searchsorted(objects.image, edges)
    for image in range(num_images):
        d = slice(det_edges[image], det_edges[image + 1])
        o = slice(obj_edges[image], obj_edges[image + 1])
        if d.start < d.stop and o.start < o.stop:
            of_image = _match_image(detections, objects, d, o)
            for name, values in of_image.items():
                found[name][d] = values
    return found


def _match_image(detections: Boxes, objects: Boxes, d: slice, o: slice) -> dict[str, np.ndarray]:
    """What `Judged` has of the detections `d` and objects `o` of one image."""
    crowd = objects.crowd[o]
    iou = np.asarray(coco_masks.iou(detections.xywh[d], objects.xywh[o], crowd.astype(np.uint8).tolist()))
    same = detections.kind[d][:, None] == objects.kind[o][None]
    nearest = {}
    for name, allowed in (("own", same & ~crowd), ("other", ~same & ~crowd)):
        masked = np.where(allowed, iou, 0.0)
        best = masked.argmax(axis=1)
        value = masked[np.arange(len(best)), best]
        nearest |= {f"{name}_iou": value, name: np.where(value > 0, best + o.start, -1)}
    match = _greedy(np.where(same & ~crowd, iou, 0.0))
    in_crowd = (np.where(same & crowd, iou, 0.0) >= FOUND_IOU).any(axis=1)
    return nearest | {"match": np.where(match >= 0, match + o.start, -1), "ignored": (match < 0) & in_crowd}


def _greedy(iou: np.ndarray) -> np.ndarray:
    """(D,) the column that each row of (D, G) takes in turn, -1 for none; of equal ones the last, as COCO does."""
    taken = np.full(len(iou), -1)
    free = iou.copy()
    last = iou.shape[1] - 1
    for row in np.flatnonzero((iou >= FOUND_IOU).any(axis=1)):
        column = last - int(free[row, ::-1].argmax())
        if free[row, column] >= FOUND_IOU:
            taken[row] = column
            free[:, column] = 0.0
    return taken
