"""How do objects and their dotted names find each other?"""

import pydoc
from typing import Any

from fvcore.common.registry import Registry

from dinov2_detrex.engine import ENGINE_PACKAGES, missing_part_message

__all__ = ["Registry", "locate"]


def locate(name: str) -> Any:
    """The object behind a dotted path such as "torch.nn.Conv2d"; modules win over attributes of the same name.

    Raises:
        ImportError: nothing is there; the message names the path.
    """
    try:
        found = pydoc.locate(name)
    except pydoc.ErrorDuringImport as error:
        raise ImportError(
            f"cannot locate {name!r}: {type(error.value).__name__} while importing it: {error.value}"
        ) from error
    if found is None:
        of_engine = name.partition(".")[0] in ENGINE_PACKAGES
        reason = missing_part_message(name) if of_engine else "no such module or attribute"
        raise ImportError(f"cannot locate {name!r}: {reason}")
    return found


def _convert_target_to_string(target: Any) -> str:
    """The shortest "package[.module...].qualname" under which `locate` finds the very same object.

    Falls back to the full name where none does, as for lambdas and objects of a config file, whose module is None.
    """
    parts = str(target.__module__).split(".")
    candidates = [".".join([*parts[:depth], target.__qualname__]) for depth in range(1, len(parts) + 1)]
    return next((name for name in candidates if _leads_to(name, target)), candidates[-1])


def _leads_to(name: str, target: Any) -> bool:
    try:
        return locate(name) is target
    except ImportError:
        return False
