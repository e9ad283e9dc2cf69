"""Which errors of libraries have a cause that the user of a run can remove, and what to tell them."""

import contextlib
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from omegaconf import DictConfig, OmegaConf

from dinov2_detrex.config.overrides import can_set
from dinov2_detrex.runtime.errors import UserError, building

__all__ = ["LESS_MEMORY", "OutOfMemory", "building", "explain", "memory_advice", "naming_killed_workers"]

_UNTIL_SIGCHLD_S = 1.0  # the connections of a process break before the system tells its parent of its end

LESS_MEMORY = {  # override -> what else to say of it
    "train.accumulate.steps=2": " (the same result in smaller parts)",
    "train.amp.enabled=true": "",
    "model.transformer.encoder.use_checkpoint=true": " (most is kept there)",
    "model.transformer.decoder.use_checkpoint=true": "",
    "model.backbone.net.use_act_checkpoint=true": "",
    "model.backbone.net.freeze=true": "",
    "model.roi_heads.batch_size_per_image=...": "",
    "dataloader.image.size=...": "",
    "dataloader.train.total_batch_size=...": "",
    "train.fsdp.enabled=true": " over several GPUs",
}


class OutOfMemory(UserError):
    """The device or the host ran out of memory."""


@dataclass(frozen=True)
class KnownFailure:
    """Errors of a library that mean one thing, and what to say of them.

    Attributes:
        kinds: the types of such errors.
        words: one of these is in the message; () where the types alone decide. Words are for errors that the library
            gives no type of their own.
        told: makes the error that the user sees of the message and the run's config.
    """

    kinds: tuple[type[BaseException], ...]
    words: tuple[str, ...]
    told: Callable[[str, DictConfig], UserError]

    def fits(self, error: BaseException) -> bool:
        """Whether `error` is one of these."""
        return isinstance(error, self.kinds) and (not self.words or any(words in str(error) for words in self.words))


def memory_advice(cfg: DictConfig) -> str:
    """Which overrides lessen what a config needs: those whose key it takes, and does not hold with that value."""
    helpful = [override + remark for override, remark in LESS_MEMORY.items() if _changes(cfg, override)]
    return f"less memory: {', '.join(helpful)}" if helpful else "use smaller images or batches"


def _changes(cfg: DictConfig, override: str) -> bool:
    key, _, value = override.partition("=")
    return can_set(cfg, key) and str(OmegaConf.select(cfg, key)).lower() != value


def _out_of_memory(text: str, cfg: DictConfig) -> UserError:
    return OutOfMemory(f"out of memory ({text.splitlines()[0] if text else 'no message'}); {memory_advice(cfg)}")


def _worker_killed(text: str, _: DictConfig) -> UserError:
    return OutOfMemory(
        f"a loader worker was killed ({text.splitlines()[0]}), mostly for lack of host memory; "
        "try dataloader.train.num_workers=... with fewer, or 0, and dataloader.test.num_workers=... likewise"
    )


def _connection_lost(text: str, _: DictConfig) -> UserError:
    return UserError(f"lost the connection to another process of the run, whose output says why ({text[:200]!r})")


KNOWN = (
    KnownFailure((torch.cuda.OutOfMemoryError, MemoryError), (), _out_of_memory),
    KnownFailure((RuntimeError,), ("can't allocate memory",), _out_of_memory),  # torch's allocator of the CPU
    KnownFailure((RuntimeError,), ("is killed by signal", "exited unexpectedly"), _worker_killed),  # torch's DataLoader
    KnownFailure((ConnectionError, torch.distributed.DistNetworkError), (), _connection_lost),
    KnownFailure((OSError,), (), lambda text, _: UserError(text)),  # a file that is not there, a disk that is full
    KnownFailure(  # gloo
        (RuntimeError,), ("Connection closed by peer", "Connection reset by peer", "Broken pipe"), _connection_lost
    ),
)


@contextlib.contextmanager
def naming_killed_workers() -> Iterator[None]:
    """A loader worker that is killed in the block is the error of the block, also where its connection breaks first.

    Raises:
        RuntimeError: a worker ended; mostly torch's, out of its handler of SIGCHLD, which says by what.
    """
    try:
        yield
    except (OSError, EOFError) as error:
        if not _from_a_worker(error):
            raise
        time.sleep(_UNTIL_SIGCHLD_S)  # the handler ends it, unless it was called in a finalizer, which keeps its error
        raise RuntimeError(f"DataLoader worker exited unexpectedly: {error or type(error).__name__}") from error


def _from_a_worker(error: BaseException) -> bool:
    """Whether it is of the connection over which a torch DataLoader gets its batches from other processes."""
    modules = {frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__)}
    by_a_loader = "torch.utils.data.dataloader" in modules and "torch.utils.data._utils.fetch" not in modules
    return by_a_loader and any(module.startswith("multiprocessing.") for module in modules)


def explain(error: BaseException, cfg: DictConfig) -> UserError | None:
    """The one-line form of an error from the training loop of a config; None for what is a bug."""
    text = _message(error)
    if not isinstance(error, UserError):
        return next((known.told(text, cfg) for known in KNOWN if known.fits(error)), None)
    if text == str(error):
        return error
    told = UserError(text)
    told.exit_status = error.exit_status
    return told


def _message(error: BaseException) -> str:
    """The message; of an error that torch's DataLoader brought over from a worker, the one that it had there.

    torch raises the worker's type again, with the text "Caught TYPE in DataLoader worker ...", the formatted traceback,
    and in its last line "TYPE: message".
    """
    text = str(error)
    from_worker = text.startswith("Caught ") and "Original Traceback" in text
    return text.strip().splitlines()[-1].partition(": ")[2] if from_worker else text
