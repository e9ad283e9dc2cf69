"""What ends a training run with one clear line, beside the errors that every command has."""

from dinov2_detrex.runtime.errors import UserError


class TrainingDiverged(UserError, FloatingPointError):
    """The loss is not finite or exploded; the message holds the iteration, the images and the last good checkpoint."""

    exit_status = 3
