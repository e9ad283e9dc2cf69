"""Data sets by name: who loads them (`DatasetCatalog`) and what is known about them (`MetadataCatalog`)."""

import logging
from collections import UserDict
from collections.abc import Callable
from typing import Any

logger = logging.getLogger(__name__)


class _DatasetCatalog(UserDict):
    """Name to the function that returns the data set's records; nothing is cached."""

    def register(self, name: str, func: Callable[[], list[dict]]) -> None:
        """Register a function without arguments; AssertionError if the name is taken or it cannot be called."""
        assert callable(func), f"data set {name!r} must be registered with a function, got {type(func).__name__}"
        assert name not in self, f"data set {name!r} is already registered"
        self[name] = func

    def get(self, name: str) -> list[dict]:
        """Load the records; KeyError, with the known names, if there is no such data set."""
        if name not in self:
            raise KeyError(f"data set {name!r} is not registered; there are: {', '.join(self) or 'none'}")
        return self[name]()

    def list(self) -> list[str]:
        return list(self)

    def remove(self, name: str) -> None:
        self.pop(name)


_OLD_NAMES = {
    "class_names": "thing_classes",
    "dataset_id_to_contiguous_id": "thing_dataset_id_to_contiguous_id",
    "stuff_class_names": "stuff_classes",
}


class Metadata:
    """Attributes of one data set. An attribute can be set again to the same value, but not to another one."""

    name: str

    def __init__(self, name: str):
        self.__dict__["name"] = name

    def __getattr__(self, key: str):
        if key in _OLD_NAMES:
            logger.warning("metadata %r is now called %r", key, _OLD_NAMES[key])
            return getattr(self, _OLD_NAMES[key])
        known = ", ".join(vars(self))
        raise AttributeError(f"metadata of data set {vars(self).get('name')!r} has no {key!r}; it has: {known}")

    def __setattr__(self, key: str, value) -> None:
        key = _OLD_NAMES.get(key, key)
        old = vars(self).get(key, value)
        assert old == value, f"metadata {key!r} of data set {self.name!r} is {old!r} and cannot become {value!r}"
        self.__dict__[key] = value

    def get(self, key: str, default: Any = None) -> Any:
        return getattr(self, key, default)

    def set(self, **values) -> "Metadata":
        """Set several attributes; returns the object itself."""
        for key, value in values.items():
            setattr(self, key, value)
        return self

    def as_dict(self) -> dict:
        """A shallow copy of all attributes."""
        return dict(vars(self))

    def __repr__(self) -> str:
        return f"Metadata({', '.join(f'{key}={value!r}' for key, value in vars(self).items())})"


class _MetadataCatalog(UserDict):
    """Name to the one `Metadata` of that name."""

    def get(self, name: str) -> Metadata:
        """The metadata of data set `name`, made empty at first use."""
        assert name, "a data set needs a name"
        if name not in self:
            self[name] = Metadata(name)
        return self[name]

    def list(self) -> list[str]:
        return list(self)

    def remove(self, name: str) -> None:
        self.pop(name)


DatasetCatalog = _DatasetCatalog()
MetadataCatalog = _MetadataCatalog()
