"""How transforms are chosen from the data at hand: `Augmentation`, its input `AugInput`, lists of them."""

import inspect
import pprint
from abc import ABCMeta, abstractmethod
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
from fvcore.transforms.transform import Transform, TransformList


class AugInput:
    """What an augmentation sees and changes.

    Args:
        image: (H, W) or (H, W, C), uint8 in 0..255 or float.
        boxes: (N, 4) XYXY pixels, or None.
        sem_seg: (H, W) labels, or None.
    """

    def __init__(self, image: np.ndarray, *, boxes: np.ndarray | None = None, sem_seg: np.ndarray | None = None):
        assert isinstance(image, np.ndarray), f"an image is an ndarray, got {type(image).__name__}"
        assert image.ndim in (2, 3), f"an image is (H, W) or (H, W, C), got {image.shape}"
        self.image = image
        self.boxes = boxes
        self.sem_seg = sem_seg

    def transform(self, tfm: Transform) -> None:
        """Apply a transform to all that is there, in place."""
        self.image: np.ndarray = cast(Any, tfm).apply_image(self.image)  # abstract in fvcore, without a return type
        if self.boxes is not None:
            self.boxes = tfm.apply_box(self.boxes)
        if self.sem_seg is not None:
            self.sem_seg = tfm.apply_segmentation(self.sem_seg)

    def apply_augmentations(self, augmentations: Sequence) -> TransformList:
        """Apply augmentations in order, in place; returns what they did."""
        return AugmentationList(augmentations)(self)


class Augmentation(metaclass=ABCMeta):
    """A policy: looks at the data, draws from numpy's global generator, returns a `Transform`.

    A subclass implements `get_transform(self, image)`, or takes several parameters named after attributes of
    `AugInput`. A single parameter is always given the image.
    """

    def _init(self, params: dict) -> None:
        """Make attributes of a constructor's `locals()`, which is also what `repr` shows."""
        for name, value in params.items():
            if name != "self" and not name.startswith("_"):
                setattr(self, name, value)

    def _rand_range(self, low: float = 1.0, high: float | None = None, size=()) -> Any:
        """A float uniform in [low, high), or in [0, low) if `high` is left out; an array where there is a `size`."""
        low, high = (0, low) if high is None else (low, high)
        return np.random.uniform(low, high, size)

    @abstractmethod
    def get_transform(self, *args) -> Transform:
        """Choose the transform for this input."""

    def __call__(self, aug_input: AugInput) -> Transform:
        """Choose a transform, apply it to `aug_input` in place, return it.

        Raises:
            TypeError: `get_transform` has *args or **kwargs, so what it wants to see is not known.
            AttributeError: the input lacks what a parameter is named after.
            AssertionError: `get_transform` returned something else than a `Transform`.
        """
        transform = self.get_transform(*self._arguments(aug_input))
        assert isinstance(transform, Transform), (
            f"{type(self).__name__}.get_transform must return a Transform, got {type(transform).__name__}"
        )
        aug_input.transform(transform)
        return transform

    def _arguments(self, aug_input: AugInput) -> list:
        parameters = inspect.signature(self.get_transform).parameters.values()
        if any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters):
            raise TypeError(f"{type(self).__name__}.get_transform must name its parameters, without * and **")
        names = [p.name for p in parameters]
        if len(names) == 1:
            return [aug_input.image]
        return [self._argument(aug_input, name) for name in names]

    def _argument(self, aug_input: AugInput, name: str):
        try:
            return getattr(aug_input, name)
        except AttributeError:
            who = f"{type(self).__name__}.get_transform"
            raise AttributeError(f"{who} asks for {name!r}, which {type(aug_input).__name__} has not") from None

    def __repr__(self) -> str:
        """Name and those constructor arguments that are not at their default."""
        shown = []
        for name, parameter in inspect.signature(self.__init__).parameters.items():
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD) or not hasattr(self, name):
                return super().__repr__()
            value = getattr(self, name)
            if value is not parameter.default and value != parameter.default:
                text = pprint.pformat(value)
                shown.append(f"{name}={'...' if chr(10) in text else text}")
        return f"{type(self).__name__}({', '.join(shown)})"


class _AlwaysThis(Augmentation):
    """A fixed transform as an augmentation."""

    def __init__(self, tfm: Transform):
        self.tfm = tfm

    def get_transform(self, image) -> Transform:
        return self.tfm

    def __repr__(self) -> str:
        return repr(self.tfm)


def as_augmentation(item) -> Augmentation:
    """An augmentation as it is, a transform wrapped; AssertionError for anything else."""
    if isinstance(item, Augmentation):
        return item
    assert isinstance(item, Transform), f"expected an Augmentation or Transform, got {type(item).__name__}"
    return _AlwaysThis(item)


class AugmentationList(Augmentation):
    """Augmentations and transforms in order, each on the result of the one before.

    Calling it with an `AugInput` gives the `TransformList` of what was done; there is no `get_transform`, because a
    later augmentation cannot choose before the earlier ones are applied.
    """

    def __init__(self, augs: Sequence[Augmentation | Transform]):
        self.augs = [as_augmentation(item) for item in augs]

    def __call__(self, aug_input: AugInput) -> TransformList:
        return TransformList([augmentation(aug_input) for augmentation in self.augs])

    def get_transform(self, *args) -> Transform:
        raise NotImplementedError("call an AugmentationList with an AugInput")

    def __repr__(self) -> str:
        return f"AugmentationList[{', '.join(map(repr, self.augs))}]"


def apply_augmentations(
    augmentations: Sequence[Augmentation | Transform], inputs: AugInput | np.ndarray
) -> tuple[AugInput | np.ndarray, TransformList]:
    """Augment an image, or an `AugInput` in place; returns the result and what was done."""
    aug_input = AugInput(inputs) if isinstance(inputs, np.ndarray) else inputs
    transforms = aug_input.apply_augmentations(augmentations)
    return (aug_input.image if isinstance(inputs, np.ndarray) else aug_input), transforms


apply_transform_gens = apply_augmentations  # the name that detrex uses
