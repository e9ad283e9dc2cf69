"""Which errors of a run have a cause that its user can remove, and what to tell them."""

import contextlib

import torch

from dinov2_detrex.data.errors import DatasetError
from dinov2_detrex.data.image_reading import UNREADABLE
from dinov2_detrex.training.errors import UserError


class OutOfMemory(UserError):
    """The device or the host ran out of memory."""


ADVICE = (
    "less memory: train.accumulate.steps=2 (the same result in smaller parts), train.amp.enabled=true, "
    "model.transformer.encoder.use_checkpoint=true (most is kept there), "
    "model.transformer.decoder.use_checkpoint=true, model.backbone.net.use_act_checkpoint=true, "
    "model.backbone.net.freeze=true, dataloader.image.size=..., "
    "dataloader.train.total_batch_size=..., train.fsdp.enabled=true over several GPUs"
)


LOST_CONNECTION = ("Connection closed by peer", "Connection reset by peer", "Broken pipe")


def explain(error: BaseException) -> UserError | None:
    """The one-line form of an error from the training loop; None for what is a bug."""
    text = str(error)
    if isinstance(error, UserError):
        return error
    if isinstance(error, DatasetError):
        return UserError(text)
    if isinstance(error, OSError) and UNREADABLE in text:  # damage within a file, which the check of the data leaves
        line = next(line for line in text.splitlines() if UNREADABLE in line)  # in a worker's error, among its frames
        return UserError(line.removeprefix("OSError: "))
    if isinstance(error, torch.cuda.OutOfMemoryError) or "can't allocate memory" in text:
        return OutOfMemory(f"out of memory ({text.splitlines()[0]}); {ADVICE}")
    if "DataLoader worker" in text and "killed by signal" in text:
        return OutOfMemory(
            f"a loader worker was killed ({text.splitlines()[0]}), mostly for lack of host memory; "
            "try dataloader.train.num_workers=... with fewer, or 0"
        )
    if isinstance(error, RuntimeError) and any(words in text for words in LOST_CONNECTION):
        return UserError(f"lost the connection to another process of the run, whose output says why ({text[:200]!r})")
    return None


@contextlib.contextmanager
def building(part: str):
    """Turns what goes wrong while `part` of a config is built into one line, since a wrong value is mostly the cause.

    Raises:
        UserError: naming the part and the error.
    """
    try:
        yield
    except (UserError, DatasetError, torch.cuda.OutOfMemoryError):
        raise
    except Exception as error:
        text = " ".join(str(error).split()) or "no message"
        raise UserError(
            f"{part} cannot be built from the config: {type(error).__name__}: {text} (--debug shows where)"
        ) from error
