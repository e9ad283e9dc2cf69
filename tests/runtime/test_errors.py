"""An error that a user can mend is one line with what to do, whoever raises it."""

import pytest
import torch

from dinov2_detrex.backbone import WeightsError
from dinov2_detrex.data import DatasetError
from dinov2_detrex.data.image_reading import UnreadableImage
from dinov2_detrex.runtime.errors import (
    MissingPackageError,
    UsageError,
    UserError,
    building,
    did_you_mean,
    nearest_names,
)
from dinov2_detrex.runtime.files import UnreadableFile
from dinov2_detrex.training.errors import TrainingDiverged


@pytest.mark.parametrize(
    "kind, status, also",
    [
        (UsageError, 2, ValueError),
        (MissingPackageError, 1, ImportError),
        (UnreadableFile, 1, RuntimeError),
        (WeightsError, 1, RuntimeError),
        (DatasetError, 1, ValueError),
        (UnreadableImage, 1, OSError),
        (TrainingDiverged, 3, FloatingPointError),
    ],
)
def test_every_error_of_a_user_has_one_root_and_is_what_callers_have_caught_before(kind, status, also):
    error = kind("what to do")
    assert isinstance(error, UserError) and isinstance(error, also)
    assert str(error) == "what to do" and error.exit_status == status


def test_the_last_part_of_a_dotted_name_decides_which_is_nearest():
    known = ["train.amp.enabled", "train.max_iter", "schedule.epochs", "model.num_classes"]
    assert nearest_names("train.max_itr", known)[0] == "train.max_iter"
    assert nearest_names("schedule.max_iter", known)[0] == "train.max_iter"
    assert did_you_mean("train.max_itr", known) == "; did you mean train.max_iter?"
    assert did_you_mean("xyz", known) == did_you_mean("x", []) == ""


def test_what_goes_wrong_while_building_is_one_line_with_the_part():
    with pytest.raises(UserError, match=r"^model cannot be built: TypeError: a b \(--debug") as caught:
        with building("model"):
            raise TypeError("a\n b")
    assert isinstance(caught.value.__cause__, TypeError)


@pytest.mark.parametrize("error", [DatasetError("gone"), torch.cuda.OutOfMemoryError("full"), KeyboardInterrupt()])
def test_errors_that_say_what_to_do_pass_through_building_unchanged(error):
    with pytest.raises(type(error)) as caught:
        with building("model"):
            raise error
    assert caught.value is error
