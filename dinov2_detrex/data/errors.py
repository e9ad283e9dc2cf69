"""What ends in one line about the data instead of a traceback."""

from dinov2_detrex.runtime.errors import UserError


class DatasetError(UserError, ValueError):
    """A data set that cannot be trained or evaluated on; the message is one line that names the file and the id."""


class DatasetNotFoundError(DatasetError, FileNotFoundError):
    """Files of a data set are not where they should be; the message says what was expected where."""
