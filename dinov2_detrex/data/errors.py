"""What ends in one line about the data instead of a traceback."""

import reprlib
from typing import Any

from dinov2_detrex.runtime.errors import UserError


class DatasetError(UserError, ValueError):
    """A data set that cannot be trained or evaluated on; the message is one line that names the file and the id."""


class DatasetNotFoundError(DatasetError, FileNotFoundError):
    """Files of a data set are not where they should be; the message says what was expected where."""


_short = reprlib.Repr()  # looks at a few members alone, so that a value of any size or depth is told at once
_short.maxlevel, _short.maxstring, _short.maxother, _short.maxlong = 3, 80, 80, 60
_LONGEST = 200


def shown(value: Any) -> str:
    """A value as Python writes it, on one line and shortened."""
    try:
        text = one_line_of(_short.repr(value))
    except ValueError:  # Python writes no integer of more than 4300 digits
        text = f"a number of {value.bit_length() * 3 // 10} digits" if isinstance(value, int) else type(value).__name__
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def one_line_of(text: str) -> str:
    """The text with line breaks, surrogates and what else cannot be printed written as escapes."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)
