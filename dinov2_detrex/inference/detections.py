"""What was found in a picture, and which part of it is wanted? In the forms that other programs take as well."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import numpy as np
import torch
from detectron2.structures import Boxes, BoxMode, Instances

from dinov2_detrex.inference.classes import Classes
from dinov2_detrex.runtime.errors import UsageError, did_you_mean
from dinov2_detrex.runtime.extras import needed

DEFAULT_THRESHOLD = 0.3


@dataclass(frozen=True)
class Selection:
    """Which detections are wanted.

    Attributes:
        score_threshold: the lowest score, 0..1, of classes that `by_class` does not name.
        by_class: lowest scores by class name.
        classes: names of the only classes that are wanted; None for all.
        top_k: at most so many of a picture, the best ones; None for all.

    Raises:
        UsageError: a threshold is not from 0 to 1, or `top_k` below 1.
    """

    score_threshold: float = DEFAULT_THRESHOLD
    by_class: Mapping[str, float] = field(default_factory=dict)
    classes: Sequence[str] | None = None
    top_k: int | None = None

    def __post_init__(self):
        for score in (self.score_threshold, *self.by_class.values()):
            if isinstance(score, bool) or not isinstance(score, int | float) or not 0 <= score <= 1:
                raise UsageError(f"a score threshold is a number from 0 to 1, not {score!r}")
        if self.top_k is not None and (not isinstance(self.top_k, int) or self.top_k < 1):
            raise UsageError(f"top_k={self.top_k!r} must be a whole number of at least 1")

    def of(self, instances: Instances, names: Sequence[str]) -> Instances:
        """The wanted ones, the best first.

        Args:
            instances: with scores (N,) and pred_classes (N,) on the CPU.
            names: of the classes, by index.

        Raises:
            UsageError: a class is named that is none of `names`.
        """
        lowest = self.thresholds(names)[instances.pred_classes]
        best_first = instances.scores.argsort(descending=True, stable=True)
        kept = best_first[(instances.scores >= lowest)[best_first]]
        return instances[kept[: self.top_k]]

    def thresholds(self, names: Sequence[str]) -> torch.Tensor:
        """The lowest score of every class, (K,) float64; infinite for a class that is not wanted."""
        for name in (*self.by_class, *(self.classes or ())):
            if name not in names:
                known = did_you_mean(name, names) or f"; there are {', '.join(names)}"
                raise UsageError(f"{name!r} is none of the detector's classes{known}")
        wanted = names if self.classes is None else self.classes
        scores = [self.by_class.get(name, self.score_threshold) if name in wanted else np.inf for name in names]
        return torch.tensor(scores, dtype=torch.float64)

    def with_threshold(self, score: float) -> "Selection":
        """The same with another threshold for the classes that have none of their own."""
        return replace(self, score_threshold=score)


DEFAULT_SELECTION = Selection()


class Detections(Sequence[dict[str, Any]]):
    """The objects of one picture, the best first: a sequence of COCO results with names, and what they are made of.

    Each result has "category_id" of the training data, "category_name", "score", and "bbox", XYWH in pixels of the
    picture, upright; and "track_id" where objects are followed.

    Args:
        instances: detectron2's, on the CPU: pred_boxes XYXY in the same pixels, scores and pred_classes; possibly
            pred_masks (N, H, W) and track_ids (N,).
        classes: of the detector.
        source: the picture's file or name.
    """

    def __init__(self, instances: Instances, classes: Classes, source: str = ""):
        self.instances, self.classes, self.source = instances, classes, source

    @property
    def image_hw(self) -> tuple[int, int]:
        """(height, width) of the picture, upright."""
        return self.instances.image_size

    @property
    def boxes_xyxy(self) -> np.ndarray:
        """(N, 4) float32, in pixels of the picture."""
        return self.instances.pred_boxes.tensor.numpy()

    @property
    def scores(self) -> np.ndarray:
        """(N,) float32, 0..1, descending."""
        return self.instances.scores.numpy()

    @property
    def class_indices(self) -> np.ndarray:
        """(N,) int64, the detector's own, from 0."""
        return self.instances.pred_classes.numpy()

    @property
    def class_names(self) -> list[str]:
        """N names."""
        return [self.classes.names[index] for index in self.class_indices]

    @property
    def masks(self) -> np.ndarray | None:
        """(N, H, W) bool; None where the detector gives none."""
        return self.instances.pred_masks.numpy().astype(bool) if self.instances.has("pred_masks") else None

    @property
    def track_ids(self) -> list[int | None] | None:
        """N numbers of objects that are followed, None for one that is not yet; None where none are followed."""
        if not self.instances.has("track_ids"):
            return None
        return [None if number < 0 else number for number in self.instances.track_ids.tolist()]

    def __len__(self) -> int:
        return len(self.instances)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        boxes_xywh = cast(
            torch.Tensor, BoxMode.convert(self.instances.pred_boxes.tensor, BoxMode.XYXY_ABS, BoxMode.XYWH_ABS)
        ).tolist()
        tracks = self.track_ids
        for i, index in enumerate(self.class_indices.tolist()):
            result = {
                "category_id": self.classes.category_ids[index],
                "category_name": self.classes.names[index],
                "score": float(self.scores[i]),
                "bbox": boxes_xywh[i],
            }
            yield result if tracks is None else result | {"track_id": tracks[i]}

    def __getitem__(self, item):
        """A result; of a slice or a mask, `Detections`."""
        if isinstance(item, int | np.integer):
            return list(self)[item]
        return Detections(self.instances[item], self.classes, self.source)

    def __eq__(self, other: object) -> bool:
        """True for the same results, also in a plain list."""
        return isinstance(other, Sequence) and not isinstance(other, str) and list(self) == list(other)

    def __repr__(self) -> str:
        height, width = self.image_hw
        return f"Detections({len(self)} objects in {self.source or 'a picture'} of {width} x {height} pixels)"

    def to_coco(self, image_id: int | None = None) -> list[dict[str, Any]]:
        """COCO results, as a list; with "image_id" in front where one is given."""
        return [({} if image_id is None else {"image_id": image_id}) | result for result in self]

    def to_pandas(self):
        """A `pandas.DataFrame` with a row for each object: source, class, category id, score and the box's corners.

        Raises:
            MissingPackageError: pandas is not installed.
        """
        pandas = needed("pandas", "Detections.to_pandas", "pandas")
        columns = {
            "source": [self.source] * len(self),
            "category_name": self.class_names,
            "category_id": [self.classes.category_ids[index] for index in self.class_indices],
            "score": self.scores,
            **{name: self.boxes_xyxy[:, i] for i, name in enumerate(("x0", "y0", "x1", "y1"))},
        }
        return pandas.DataFrame(columns | ({} if self.track_ids is None else {"track_id": self.track_ids}))

    def to_supervision(self):
        """`supervision.Detections` with the names as `data["class_name"]`; `class_id` is the detector's own index.

        Raises:
            MissingPackageError: supervision is not installed.
        """
        supervision = needed("supervision", "Detections.to_supervision", "supervision")
        return supervision.Detections(
            xyxy=self.boxes_xyxy,
            confidence=self.scores,
            class_id=self.class_indices,
            mask=self.masks,
            tracker_id=self.instances.track_ids.numpy() if self.instances.has("track_ids") else None,
            data={"class_name": np.array(self.class_names, dtype=str)},
        )


def no_instances(image_hw: tuple[int, int]) -> Instances:
    """Those of a picture in which nothing was found."""
    return Instances(
        image_hw,
        pred_boxes=Boxes(torch.zeros(0, 4)),
        scores=torch.zeros(0),
        pred_classes=torch.zeros(0, dtype=torch.int64),
    )
