"""The formats that data sets are read from: each file here is one, and defines `FORMAT`, a `DataFormat`.

A new file needs no entry anywhere: training, the check, the figures and the resolvers of the recipes know the format
by what `FORMAT.read` returns.
"""

import functools
import importlib
import pkgutil

from dinov2_detrex.data.source import DataFormat


@functools.cache
def package_formats() -> tuple[DataFormat, ...]:
    """The `FORMAT` of each file in this folder, by the files' names."""
    names = sorted(module.name for module in pkgutil.iter_modules(__path__))
    return tuple(importlib.import_module(f"{__name__}.{name}").FORMAT for name in names)
