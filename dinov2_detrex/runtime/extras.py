"""How is a package that not everyone needs imported? When it is asked for, or with one line that says how to get it."""

import importlib
from types import ModuleType

from dinov2_detrex.runtime.errors import MissingPackageError


def needed(package: str, purpose: str, extra: str) -> ModuleType:
    """Import an optional package, or a module of it.

    Args:
        package: its name.
        purpose: what needs it, for the message.
        extra: of this project, that brings it.

    Raises:
        MissingPackageError: it is not installed; names the extra.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        how = f'pip install "dinov2_detrex[{extra}]"'
        raise MissingPackageError(f"{purpose} needs {package.partition('.')[0]}: {how} ({error})") from error
