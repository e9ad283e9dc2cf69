"""Everything known about the N objects of one image, as fields of equal length: `Instances`."""

import itertools
from typing import Any

import numpy as np
import torch


class Instances:
    """A table of N objects; each field (boxes, classes, scores, ...) is an attribute of length N.

    Args:
        image_size: (height, width) of the image that the boxes refer to; cannot be changed.
        fields: name=value, any objects with a length. The first one fixes N. Names that begin with an underscore are
            ordinary attributes, not fields.
    """

    def __init__(self, image_size: tuple[int, int], **fields: Any):
        self._image_size = image_size
        self._fields: dict[str, Any] = {}
        for name, value in fields.items():
            self.set(name, value)

    @property
    def image_size(self) -> tuple[int, int]:
        return self._image_size

    def set(self, name: str, value: Any) -> None:
        """Add or replace a field; AssertionError if its length is not that of the others."""
        if self._fields:
            assert len(self) == len(value), f"field {name!r} has length {len(value)}, these Instances {len(self)}"
        self._fields[name] = value

    def get(self, name: str) -> Any:
        """The field `name`; KeyError if there is none."""
        return self._fields[name]

    def has(self, name: str) -> bool:
        return name in self._fields

    def remove(self, name: str) -> None:
        del self._fields[name]

    def get_fields(self) -> dict[str, Any]:
        """The live dict of fields: changing it changes the object."""
        return self._fields

    def to(self, *args: Any, **kwargs: Any) -> "Instances":
        """A copy whose fields are moved or cast, where they can be."""
        return self._map(lambda value: value.to(*args, **kwargs) if hasattr(value, "to") else value)

    def _map(self, function) -> "Instances":
        result = Instances(self._image_size)
        for name, value in self._fields.items():
            result.set(name, function(value))
        return result

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "image_size":
            raise AttributeError("image_size of Instances cannot be changed; make new Instances")
        if name.startswith("_"):
            super().__setattr__(name, value)
        else:
            self.set(name, value)

    def __getattr__(self, name: str) -> Any:
        if name == "_fields" or name not in self._fields:  # "_fields" is missing while a copy is being made
            raise AttributeError(f"these Instances have no field {name!r}")
        return self._fields[name]

    def __getitem__(self, item) -> "Instances":
        """The objects at an int (one object), slice, mask or index tensor."""
        if isinstance(item, (int, np.integer)):
            if not -len(self) <= item < len(self):
                raise IndexError(f"index {item} is out of range for {len(self)} instances")
            item = slice(item, item + 1 or None)
        return self._map(lambda value: value[item])

    def __len__(self) -> int:
        for value in self._fields.values():
            return len(value)
        raise NotImplementedError("Instances without fields have no length")

    def __contains__(self, name: str) -> bool:
        return self.has(name)

    def __iter__(self):
        raise NotImplementedError("Instances cannot be iterated; index them, or iterate over a field")

    @staticmethod
    def cat(instance_lists: list["Instances"]) -> "Instances":
        """Join Instances of one image size field by field.

        Raises:
            AssertionError: an empty list, other types, or different image sizes.
            ValueError: a field is no tensor, no list and has no `cat`.
        """
        assert instance_lists, "expected at least one Instances"
        assert all(isinstance(part, Instances) for part in instance_lists), "expected a list of Instances alone"
        if len(instance_lists) == 1:
            return instance_lists[0]
        first = instance_lists[0]
        sizes = {tuple(part.image_size) for part in instance_lists}
        assert len(sizes) == 1, f"Instances of one image size can be joined, got {sorted(sizes)}"
        joined = Instances(first.image_size)
        for name in first.get_fields():
            joined.set(name, _cat_field(name, [part.get(name) for part in instance_lists]))
        return joined

    def __str__(self) -> str:
        count = f"num_instances={len(self)}" if self._fields else "no fields"
        height, width = self._image_size
        fields = ", ".join(f"{name}: {value}" for name, value in self._fields.items())
        return f"Instances({count}, image_height={height}, image_width={width}, fields=[{fields}])"

    __repr__ = __str__


def _cat_field(name: str, values: list) -> Any:
    if isinstance(values[0], torch.Tensor):
        return torch.cat(values)
    if isinstance(values[0], list):
        return list(itertools.chain(*values))
    if hasattr(type(values[0]), "cat"):
        return type(values[0]).cat(values)
    raise ValueError(f"cannot join field {name!r} of type {type(values[0]).__name__}")
