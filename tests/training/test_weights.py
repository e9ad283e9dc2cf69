"""What is evaluated and what predicts has all of its weights from the file, or one line says how many it lacks."""

import pytest
import torch
from torch import nn

from dinov2_detrex.runtime.errors import UserError
from dinov2_detrex.training import checkpoint
from dinov2_detrex.training.weights import NoAveragedWeights, WeightsDoNotFit, load_all, load_what_fits, with_names_of


class Small(nn.Module):
    """Two layers, the second under two names, as the detector has its heads."""

    def __init__(self, width: int = 3, classes: int = 2):
        super().__init__()
        self.body = nn.Linear(4, width)
        self.head = nn.Linear(width, classes)
        self.decoder = nn.ModuleDict({"head": self.head})


@pytest.fixture
def saved(tmp_path):
    """A file of the given content, and its path."""

    def save(content: dict) -> str:
        checkpoint.write(tmp_path / "weights.pth", content)
        return str(tmp_path / "weights.pth")

    return save


def state_of(model: nn.Module, prefix: str = "") -> dict[str, torch.Tensor]:
    return {prefix + name: value for name, value in model.state_dict().items()}


def assert_same(found: nn.Module, wanted: nn.Module) -> None:
    assert all(torch.equal(a, b) for a, b in zip(found.parameters(), wanted.parameters(), strict=True))


@pytest.mark.parametrize(
    "prefix", ["", "module.", "model.", "_orig_mod.", "module._orig_mod.", "ema_model.module.", "student.detector."]
)
def test_one_prefix_before_all_names_is_taken_off(saved, prefix):
    source, model = Small(), Small()
    rest = load_all(model, saved({"model": state_of(source, prefix), "metadata": {"a": 1}}))
    assert_same(model, source)
    assert rest["metadata"] == {"a": 1}


def test_what_a_compiled_part_puts_into_names_is_taken_out(saved):
    source, model = Small(), Small()
    state = {name.replace("body.", "body._orig_mod."): value for name, value in state_of(source).items()}
    load_all(model, saved({"state_dict": state}))
    assert_same(model, source)


def test_names_that_lack_the_prefix_of_most_stay_as_they_are():
    names = {"a.x": 0, "b.x": 0}
    assert with_names_of({"model.a.x": 1, "model.b.x": 2, "step": 3}, names, "file") == {"a.x": 1, "b.x": 2, "step": 3}
    assert with_names_of({"a.x": 1, "model.b.x": 2}, names, "file") == {"a.x": 1, "model.b.x": 2}


def test_a_weight_under_one_of_its_two_names_is_enough(saved):
    source, model = Small(), Small()
    state = {name: value for name, value in state_of(source).items() if not name.startswith("decoder.")}
    load_all(model, saved({"model": state}))
    assert_same(model, source)


PARTIAL = {
    "a part": ({"body.weight", "body.bias"}, "2 of 4 weights would stay random, e.g. head.weight"),
    "nothing": (set(), "4 of 4 weights would stay random, e.g. body.weight"),
}


@pytest.mark.parametrize("kept, words", PARTIAL.values(), ids=PARTIAL)
def test_weights_that_would_stay_random_are_counted_with_an_example(saved, kept, words):
    path = saved({"model": {name: value for name, value in state_of(Small()).items() if name in kept}})
    with pytest.raises(WeightsDoNotFit, match=words) as error:
        load_all(Small(), path)
    assert path in str(error.value) and "config.yaml" in str(error.value)


def test_another_shape_is_told_from_both_sides(saved):
    with pytest.raises(WeightsDoNotFit, match=r"2 of 4 .*head.weight, \(5, 3\) in it and \(2, 3\) in the model"):
        load_all(Small(), saved({"model": state_of(Small(classes=5))}))


def test_weights_that_a_part_of_the_model_has_no_place_for_are_refused_and_others_are_not(saved):
    state = state_of(Small())
    load_all(Small(), saved({"model": state | {"pixel_mean": torch.zeros(3), "teacher.weight": torch.zeros(2)}}))
    with pytest.raises(WeightsDoNotFit, match="no place for 1 of the file's, e.g. body.2.weight"):
        load_all(Small(), saved({"model": state | {"body.2.weight": torch.zeros(2)}}))


def test_a_start_from_a_part_is_allowed_and_one_from_nothing_refused(saved):
    source, model = Small(), Small()
    part = {name: value for name, value in state_of(source).items() if name.startswith("body.")}
    load_what_fits(model, saved({"model": part}))
    assert torch.equal(model.body.weight, source.body.weight)
    with pytest.raises(WeightsDoNotFit, match="of its 1 weights none .*blocks.0.weight.*checkpoint_path"):
        load_what_fits(model, saved({"model": {"blocks.0.weight": torch.zeros(3)}}))


@pytest.mark.parametrize("key", ["ema_state", "model_ema"])
def test_averaged_weights_are_taken_when_asked_for_and_mentioned_when_not(saved, caplog, key):
    plain, average = Small(), Small()
    once = {name: value for name, value in state_of(average).items() if not name.startswith("decoder.")}
    path, caplog.handler.level = saved({"model": state_of(plain), key: once}), 0
    with caplog.at_level("INFO", logger="dinov2_detrex"):
        for averaged, wanted in ((False, plain), (True, average)):
            model = Small()
            load_all(model, path, averaged)
            assert_same(model, wanted)
    assert "use_ema_weights_for_eval_only=true" in caplog.text and "taking the averaged weights" in caplog.text
    with pytest.raises(NoAveragedWeights, match="ema_state"):
        load_all(Small(), saved({"model": state_of(plain)}), averaged=True)


@pytest.mark.parametrize(
    "content", [{"model": 5}, {"model": {"body.weight": "text"}}, {"model": [1]}, {"optimizer": {}}, [1, 2]]
)
def test_content_that_is_no_state_dict_is_one_line_that_names_the_file(saved, content):
    path = saved(content)
    for load in (load_all, load_what_fits):
        with pytest.raises(UserError) as error:
            load(Small(), path)
        assert str(error.value).startswith(path) and "\n" not in str(error.value)


def test_a_safetensors_file_and_a_bfloat16_one_load(tmp_path, saved):
    from safetensors.torch import save_file

    source, model = Small(), Small()
    save_file({name: value.clone() for name, value in state_of(source).items()}, tmp_path / "w.safetensors")
    load_all(model, str(tmp_path / "w.safetensors"))
    assert_same(model, source)
    load_all(model, saved({"model": {name: value.bfloat16() for name, value in state_of(source).items()}}))
    assert model.body.weight.dtype == torch.float32
    torch.testing.assert_close(model.body.weight, source.body.weight, rtol=0.01, atol=0.01)


@pytest.mark.parametrize(
    "damage",
    [
        lambda state: {f"foreign.{name}.x": value for name, value in state.items()},
        lambda state: {name: value for name, value in state.items() if not name.startswith("box.")},
        lambda state: {name: value[:1] if name.startswith("cls.") else value for name, value in state.items()},
    ],
    ids=["foreign names", "without a part", "of other classes"],
)
def test_eval_only_ends_with_one_line_instead_of_the_results_of_random_weights(train, tmp_path, capfd, damage):
    _, folder = train("run", "train.max_iter=1", "train.eval_period=0", "dataloader.evaluator=null")
    content = checkpoint.read(folder / "model_final.pth")
    checkpoint.write(tmp_path / "bad.pth", {"model": damage(content["model"])})
    capfd.readouterr()
    assert train("eval", "--eval-only", f"train.init_checkpoint={tmp_path}/bad.pth")[0] == 1
    last = capfd.readouterr().err.strip().splitlines()[-1]
    assert last.startswith(f"error: train.init_checkpoint={tmp_path}/bad.pth") and "would stay random" in last
