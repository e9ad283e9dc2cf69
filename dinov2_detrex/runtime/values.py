"""Are the numbers that something is built from such that it can be built, and work? If not, one line names the value.

Asked by constructors of their own arguments: `require_whole(self, 1, num_layers=num_layers)`.
"""

import math
import reprlib
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any

from dinov2_detrex.runtime.errors import UsageError

MOST = 2**20  # of anything that is counted; beyond it the machine's memory would say no, minutes later
MOST_LAYERS = 2**10

_SHORT = reprlib.Repr()
_SHORT.maxlist = _SHORT.maxtuple = _SHORT.maxdict = 8
_SHORT.maxstring = _SHORT.maxlong = _SHORT.maxother = 60


def require_whole(owner: object, low: int, high: int = MOST, **values: Any) -> None:
    """Every value is a whole number from `low` to `high`; truth values are none.

    Args:
        owner: the object that is built, or its name.
        low, high: both included.
        values: by the names that the user knows them by.

    Raises:
        UsageError: naming owner and value.
    """
    for name, value in values.items():
        whole = isinstance(value, Integral) and not isinstance(value, bool)
        if not (whole and low <= int(value) <= high):
            raise refused(owner, name, value, f"a whole number from {low} to {high}")


def require_number(owner: object, low: float = -math.inf, high: float = math.inf, **values: Any) -> None:
    """Every value is a finite number from `low` to `high`; truth values are none.

    Raises:
        UsageError: naming owner and value.
    """
    for name, value in values.items():
        if not (_is_finite(value) and low <= value <= high):
            raise refused(owner, name, value, f"a finite number{_between(low, high)}")


def require_share(owner: object, **values: Any) -> None:
    """Every value is a number from 0 to 1: a probability, a rate of dropout.

    Raises:
        UsageError: naming owner and value.
    """
    require_number(owner, 0, 1, **values)


def require_numbers(owner: object, low: float = -math.inf, open_low: bool = False, **values: Any) -> None:
    """Every value is a list of one or more finite numbers of at least `low`, or above it where that is `open_low`.

    Raises:
        UsageError: naming owner and value.
    """
    above = f" {'above' if open_low else 'of at least'} {low:g}" if low > -math.inf else ""
    for name, value in values.items():
        if not _is_list(value) or not all(_is_finite(v) and (v > low if open_low else v >= low) for v in value):
            raise refused(owner, name, value, f"a list of finite numbers{above}")


def require_flag(owner: object, **values: Any) -> None:
    """Every value is true or false; 0 and 1 stand for them.

    Raises:
        UsageError: naming owner and value.
    """
    for name, value in values.items():
        if not (isinstance(value, bool | Integral) and value in (0, 1)):
            raise refused(owner, name, value, "true or false")


def require_heads(owner: object, embed_dim: Any, num_heads: Any) -> None:
    """The width is a multiple of the number of heads.

    Raises:
        UsageError: naming owner and values.
    """
    require_whole(owner, 1, embed_dim=embed_dim, num_heads=num_heads)
    if embed_dim % num_heads:
        raise refused(owner, "embed_dim", embed_dim, f"a multiple of num_heads={num_heads}")


def require_equal(owner: object, name: str, value: Any, **others: Any) -> None:
    """The value is that of every other part that has a say in it; parts without one are given as None.

    Raises:
        UsageError: naming owner, both values, and where the other one is from.
    """
    for where, other in others.items():
        if other is not None and other != value:
            raise refused(owner, name, value, f"that of the {where.replace('_', ' ')}, {other}")


def refused(owner: object, name: str, value: Any, wanted: str) -> UsageError:
    """The error for a value that cannot be used."""
    owner = owner if isinstance(owner, str) else type(owner).__name__
    return UsageError(f"{owner}: {name}={_shown(value)} must be {wanted}")


def _shown(value: Any) -> str:
    """A value as a config writes it, on one line and not too long."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    try:
        return " ".join(_SHORT.repr(value).split())
    except ValueError:  # Python writes no integers of more than 4300 digits
        return f"{type(value).__name__} of too many digits"


def _is_finite(value: Any) -> bool:
    try:
        return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # an integer beyond the range of floats
        return False


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str) and len(value) > 0


def _between(low: float, high: float) -> str:
    if high < math.inf:
        return f" from {low:g} to {high:g}"
    return f" of at least {low:g}" if low > -math.inf else ""
