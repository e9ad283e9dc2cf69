"""What ends a command with one clear line instead of a traceback."""

import contextlib
import difflib
from collections.abc import Iterable, Iterator


class UserError(Exception):
    """A request that cannot be met as given: the message, one line, names what is wrong and what to do.

    The root of all errors that a user can mend. A command prints the message and ends with `exit_status`.
    """

    exit_status = 1


class UsageError(UserError, ValueError):
    """The command line or the config itself is wrong: an unknown file, key, flag or choice."""

    exit_status = 2


class MissingPackageError(UserError, ImportError):
    """An optional package is not installed; the message says what it is needed for and how to get it."""


def nearest_names(name: str, known: Iterable[str], count: int = 3) -> list[str]:
    """Up to `count` of the known names that look most like `name`, best first; [] where none comes near.

    The last part of dotted names counts most: `train.max_itr` is nearer to `schedule.max_iter` than to `train.amp`.
    """

    def likeness(candidate: str) -> float:
        last = difflib.SequenceMatcher(None, name.rpartition(".")[2], candidate.rpartition(".")[2]).ratio()
        return last + 0.5 * difflib.SequenceMatcher(None, name, candidate).ratio()

    ranked = sorted(((likeness(candidate), candidate) for candidate in known), key=lambda pair: (-pair[0], pair[1]))
    return [candidate for score, candidate in ranked[:count] if score > max(0.9, ranked[0][0] - 0.2)]


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: "; did you mean a or b?", or "" where nothing comes near."""
    near = nearest_names(name, known)
    return f"; did you mean {' or '.join(near)}?" if near else ""


def one_line(error: BaseException) -> str:
    """Type and message of an error, on one line."""
    return " ".join(f"{type(error).__name__}: {error}".split()).removesuffix(":")


@contextlib.contextmanager
def building(part: str) -> Iterator[None]:
    """Turns what goes wrong while `part` of a model or run is built into one line: a wrong value is mostly the cause.

    Raises:
        UserError: naming the part and the error. Errors that are one already, and a full device, pass unchanged.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        from torch.cuda import OutOfMemoryError  # at hand by now; at the top it would slow down every `--help`

        if isinstance(error, OutOfMemoryError):
            raise
        message = f"{part} cannot be built: {one_line(error)} (--debug shows where)"
        raise UserError(message) from error
