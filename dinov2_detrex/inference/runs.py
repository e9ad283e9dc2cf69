"""Which weights does the folder of a run hold, and which of them are meant?"""

from dataclasses import dataclass
from pathlib import Path

from dinov2_detrex.runtime.downloads import local_file
from dinov2_detrex.runtime.errors import UserError
from dinov2_detrex.runtime.packages import CONFIG, is_package
from dinov2_detrex.training.checkpoint import RunCheckpoints

BEST, FINAL, AVERAGED = "best", "final", "averaged"
BEST_FILE = "model_best.pth"


@dataclass(frozen=True)
class Trained:
    """Weights of a run, and which they are.

    Attributes:
        file: they lie in.
        averaged: True for the `ema_state` of the file in place of its `model`.
    """

    file: Path
    averaged: bool = False


def choose_weights(run: Path, choice: str = "") -> Trained:
    """Which weights of a run's folder?

    Args:
        run: the folder.
        choice: "best" (model_best.pth), "final" (the newest checkpoint), "averaged" (the newest one's average of the
            weights), or a file; "" for the best, and the newest where none was judged.

    Raises:
        UserError: the run has no such weights.
    """
    if choice not in ("", BEST, FINAL, AVERAGED):
        return Trained(Path(choice))
    best, newest = run / BEST_FILE, RunCheckpoints(run).newest()
    if choice == BEST or (not choice and best.is_file()):
        if not best.is_file():
            raise UserError(f"{run} has no {BEST_FILE}; take the newest weights with --weights {FINAL}")
        return Trained(best)
    if newest is None:
        raise UserError(f"{run} is no folder of a run: no weights were saved in it; name a file with --weights FILE")
    return Trained(newest, averaged=choice == AVERAGED)


def weights_for(config_file: Path, choice: str = "") -> Trained:
    """The weights that go with a config: a package's own, a run's as `choose_weights` says, or a file with any.

    Raises:
        UserError: there are none.
    """
    if choice not in ("", BEST, FINAL, AVERAGED):
        return Trained(Path(local_file(choice)))
    if is_package(config_file.parent) and not choice:
        return Trained(config_file.parent)
    return choose_weights(find_run(config_file), choice)


def file_or_choice(config_file: Path, choice: str = "") -> Trained:
    """The weights that `--weights` names: a file, or `choose_weights` of the run that the config was written by.

    Raises:
        UserError: the file is not there, the config is no run's, or the run has no such weights.
    """
    choice = local_file(choice)
    if Path(choice).is_file():
        return Trained(Path(choice))
    if choice not in ("", BEST, FINAL, AVERAGED):
        raise UserError(f"--weights {choice} does not exist; name a file, or of a run {BEST}, {FINAL} or {AVERAGED}")
    return choose_weights(find_run(config_file), choice)


def find_run(config_file: Path) -> Path:
    """The folder of the run that a config.yaml was written by.

    Raises:
        UserError: it is a recipe's or a package's.
    """
    if is_package(config_file.parent):
        raise UserError(f"{config_file.parent} is a model package already")
    if config_file.name != CONFIG:
        raise UserError(f"{config_file} is a recipe, not a run; name the weights with --weights FILE")
    return config_file.parent
