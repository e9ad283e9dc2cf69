"""How does the fallback refuse a name that only the real detectron2 has? With one ImportError line that names it."""

from collections.abc import Callable


def refuse(module: str, *names: str, hint: str = "") -> Callable[[str], object]:
    """A module-level `__getattr__` under which importing one of `names` from `module` fails with one clear line.

    Args:
        module: the refusing module's `__name__`.
        names: what the real package has under that module and the fallback has not.
        hint: what to use instead, appended to the message.
    """

    def __getattr__(name: str):
        if name not in names:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        raise ImportError(
            f"{module}.{name} is not in dinov2_detrex's slice of detectron2; the real detectron2 has it, "
            "and is used once installed" + (f" ({hint})" if hint else "")
        )

    return __getattr__
