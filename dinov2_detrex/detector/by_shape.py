"""How is a batch answered as its images would be one by one? By one call for each shape: none is padded to another.

A detector on a ViT sees the padding of a batch: its attention reaches the padded cells, its positions are those of the
padded canvas, and the neck's group norm counts them. So a smaller image would get other boxes beside a larger one.
"""

from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

Record = dict[str, Any]  # what a detector is given of an image, or tells of it


def detect_by_shape(model: Callable[[list[Record]], list[Record]], batch: Any) -> Any:
    """`model(batch)`, where every image is answered in a batch of its own shape.

    Args:
        model: in evaluation mode, gives as many answers as it is given records.
        batch: records with an `image` (C, H, W) each; anything else goes to the model as it is.

    Returns:
        the answers in the order of the batch.
    """
    groups = _indices_by_shape(batch)
    if len(groups) < 2:
        return model(batch)
    answers: dict[int, Record] = {}
    for indices in groups:
        answers |= zip(indices, model([batch[i] for i in indices]), strict=True)
    return [answers[i] for i in range(len(batch))]


def _indices_by_shape(batch: Any) -> Sequence[list[int]]:
    """Which records of a batch have images of one shape; [] where it is no batch of images."""
    if not isinstance(batch, list) or not all(isinstance(record, dict) and "image" in record for record in batch):
        return []
    groups: dict[tuple[int, ...], list[int]] = {}
    for i, record in enumerate(batch):
        groups.setdefault(tuple(record["image"].shape), []).append(i)
    return list(groups.values())


class ByShape(nn.Module):
    """A detector that answers each image of a batch as if it were alone, for evaluators that call a module.

    Args:
        model: the detector; its mode is followed and set.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model
        self.training = model.training  # not `train()`, which would unfreeze what is frozen inside

    def forward(self, batch: Any) -> Any:
        """See `detect_by_shape`."""
        return detect_by_shape(self.model, batch)
