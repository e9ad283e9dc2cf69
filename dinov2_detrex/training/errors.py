"""What ends a run with one clear line instead of a traceback."""


class UserError(Exception):
    """A request that cannot be met as given: the message names what is wrong and what to do.

    The command line prints it as one line and ends with `exit_status`.
    """

    exit_status = 1


class UsageError(UserError):
    """The command line itself is wrong: an unknown config file, key or flag."""

    exit_status = 2


class TrainingDiverged(UserError, FloatingPointError):
    """The loss is not finite or exploded; the message holds the iteration, the images and the last good checkpoint."""

    exit_status = 3
