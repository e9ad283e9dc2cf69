"""Checkpoints: what is saved comes back, a kill loses nothing, no file runs code, foreign files load forgivingly."""

import pickle
import subprocess

import pytest
import torch
from detectron2.checkpoint import Checkpointer, DetectionCheckpointer, PeriodicCheckpointer
from torch import nn


class Head(nn.Module):
    def __init__(self, classes: int = 3):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 5), nn.LayerNorm(5))
        self.head = nn.Linear(5, classes)


def values(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def equal(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def an_optimizer(model: nn.Module) -> torch.optim.Optimizer:
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    sum(p.sum() for p in model.parameters()).backward()
    optimizer.step()
    return optimizer


# --- saving and loading -----------------------------------------------------------------------------------------


def test_what_is_saved_comes_back(tmp_path):
    model = Head()
    optimizer = an_optimizer(model)
    DetectionCheckpointer(model, str(tmp_path), optimizer=optimizer).save("first", iteration=9, names=["cat"])
    other = Head()
    other_optimizer = torch.optim.AdamW(other.parameters(), lr=0.5)
    rest = DetectionCheckpointer(other, optimizer=other_optimizer).load(str(tmp_path / "first.pth"))
    assert rest == {"iteration": 9, "names": ["cat"]}
    assert equal(values(other), values(model))
    assert other_optimizer.state_dict()["state"].keys() == optimizer.state_dict()["state"].keys()
    assert other_optimizer.param_groups[0]["lr"] == 0.1
    assert (tmp_path / "last_checkpoint").read_text() == "first.pth"


def test_nothing_is_saved_without_a_folder_or_when_told_not_to(tmp_path):
    DetectionCheckpointer(Head()).save("x")
    DetectionCheckpointer(Head(), str(tmp_path), save_to_disk=False).save("x")
    assert list(tmp_path.iterdir()) == []


def test_a_name_with_a_folder_is_refused(tmp_path):
    with pytest.raises(AssertionError):
        DetectionCheckpointer(Head(), str(tmp_path)).save("sub/x")


@pytest.mark.fallback("detectron2")
def test_the_folder_is_made_when_first_saved_to(tmp_path):
    DetectionCheckpointer(Head(), str(tmp_path / "a" / "b")).save("x")
    assert (tmp_path / "a" / "b" / "x.pth").is_file()


def test_an_empty_path_loads_nothing():
    model = Head()
    before = values(model)
    assert DetectionCheckpointer(model).load("") == {} and DetectionCheckpointer(model).load(None) == {}
    assert equal(values(model), before)


def test_a_missing_file_is_an_assertion_error_that_names_it(tmp_path):
    with pytest.raises(AssertionError, match="nothing.pth"):
        DetectionCheckpointer(Head()).load(str(tmp_path / "nothing.pth"))


def test_resume_takes_the_newest_with_everything_and_load_takes_the_model_alone(tmp_path):
    model = Head()
    optimizer = an_optimizer(model)
    checkpointer = DetectionCheckpointer(model, str(tmp_path / "run"), optimizer=optimizer)
    (tmp_path / "run").mkdir()
    assert not checkpointer.has_checkpoint()
    checkpointer.save("model_0000004", iteration=4)
    checkpointer.save("model_0000009", iteration=9)
    assert checkpointer.has_checkpoint() and checkpointer.get_checkpoint_file().endswith("model_0000009.pth")
    assert len(checkpointer.get_all_checkpoint_files()) == 2

    fresh = Head()
    fresh_optimizer = torch.optim.AdamW(fresh.parameters(), lr=0.5)
    fresh_checkpointer = DetectionCheckpointer(fresh, str(tmp_path / "run"), optimizer=fresh_optimizer)
    rest = fresh_checkpointer.resume_or_load(str(tmp_path / "run" / "model_0000004.pth"), resume=False)
    assert rest["iteration"] == 4 and "optimizer" in rest and fresh_optimizer.param_groups[0]["lr"] == 0.5
    assert fresh_checkpointer.resume_or_load("", resume=True) == {"iteration": 9}
    assert fresh_optimizer.param_groups[0]["lr"] == 0.1


def test_checkpointables_need_a_state_and_unique_keys():
    checkpointer = Checkpointer(Head(), thing=nn.ReLU())
    with pytest.raises(TypeError):
        checkpointer.add_checkpointable("other", object())
    with pytest.raises(KeyError):
        checkpointer.add_checkpointable("thing", nn.ReLU())


@pytest.mark.fallback("detectron2")
def test_unknown_checkpointables_are_a_key_error(tmp_path):
    DetectionCheckpointer(Head(), str(tmp_path)).save("x")
    with pytest.raises(KeyError, match="optimzer"):
        DetectionCheckpointer(Head(), optimizer=nn.ReLU()).load(str(tmp_path / "x.pth"), checkpointables=["optimzer"])


@pytest.mark.fallback("detectron2")
def test_a_stale_last_checkpoint_names_both_files(tmp_path):
    checkpointer = DetectionCheckpointer(Head(), str(tmp_path))
    checkpointer.save("gone")
    (tmp_path / "gone.pth").unlink()
    with pytest.raises(AssertionError, match="last_checkpoint.*gone.pth"):
        checkpointer.resume_or_load("", resume=True)


# --- a kill in the middle of a save -----------------------------------------------------------------------------

SAVES_UNTIL_KILLED = """
import os, random, signal, sys, time
import dinov2_detrex, torch
from detectron2.checkpoint import DetectionCheckpointer

folder = sys.argv[1]
model = torch.nn.Linear(1000, 2000)
unfinished = 0
random.seed(0)
for round in range(8):
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        checkpointer = DetectionCheckpointer(model, folder)
        for step in range(100000):
            torch.nn.init.constant_(model.weight, 1000 * round + step)
            checkpointer.save(f"model_{step % 2}", step=1000 * round + step)
            if step == 1:
                os.write(writer, b".")
    os.read(reader, 1)
    time.sleep(random.uniform(0, 0.05))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    complete = {"model_0.pth", "model_1.pth", "last_checkpoint"}
    unfinished += len(set(os.listdir(folder)) - complete)
    loaded = torch.nn.Linear(1000, 2000)
    rest = DetectionCheckpointer(loaded, folder).resume_or_load("", resume=True)
    assert (loaded.weight == rest["step"]).all() and rest["step"] >= 1000 * round + 1, rest
    for name in ("model_0.pth", "model_1.pth"):
        assert len(torch.load(os.path.join(folder, name), weights_only=True)["model"]) == 2
DetectionCheckpointer(model, folder).save("model_1")
assert set(os.listdir(folder)) == complete, os.listdir(folder)
print("killed in the middle:", unfinished)
"""


@pytest.mark.fallback("detectron2")
def test_a_save_that_is_killed_leaves_the_last_good_checkpoint(tmp_path, python, python_env):
    done = subprocess.run(
        [python, "-c", SAVES_UNTIL_KILLED, str(tmp_path)], env=python_env, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[-1]) > 0, "no kill hit a save, so nothing was shown"


@pytest.mark.fallback("detectron2")
def test_a_save_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    checkpointer = DetectionCheckpointer(Head(), str(tmp_path))
    checkpointer.save("model", iteration=1)
    with pytest.raises(Exception):  # noqa: B017  whatever pickling a lambda raises
        checkpointer.save("model", iteration=lambda: 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last_checkpoint", "model.pth"]
    assert DetectionCheckpointer(Head()).load(str(tmp_path / "model.pth")) == {"iteration": 1}


@pytest.mark.fallback("detectron2")
def test_the_next_save_clears_what_a_killed_one_left_behind(tmp_path):
    from dinov2_detrex.runtime.files import atomic_write

    killed = atomic_write(tmp_path / "model_0000007.pth")
    killed.__enter__().write(b"half of a checkpoint")
    assert len(list(tmp_path.iterdir())) == 1 and not list(tmp_path.glob("*.pth"))
    DetectionCheckpointer(Head(), str(tmp_path)).save("model_0000009")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last_checkpoint", "model_0000009.pth"]


# --- files that could run code, damaged and foreign files -------------------------------------------------------


class RunsCode:
    """Pickles to a call that makes a folder: stands for any code that an untrusted file could run."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        import os

        return os.mkdir, (self.path,)


@pytest.mark.parametrize("suffix", ["pth", "pkl"])
@pytest.mark.fallback("detectron2")
def test_a_file_that_would_run_code_is_refused_with_the_way_to_opt_in(tmp_path, monkeypatch, suffix):
    monkeypatch.delenv("DINOV2_DETREX_UNSAFE_PICKLE", raising=False)
    path = tmp_path / f"evil.{suffix}"
    content = {"model": {}, "__author__": "x", "extra": RunsCode(tmp_path / "made")}
    if suffix == "pth":
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content))
    checkpointer = DetectionCheckpointer(Head())
    with pytest.raises(pickle.UnpicklingError, match=rf"evil.{suffix} holds .*mkdir.*DINOV2_DETREX_UNSAFE_PICKLE=1"):
        checkpointer.load(str(path))
    assert not (tmp_path / "made").exists()

    monkeypatch.setenv("DINOV2_DETREX_UNSAFE_PICKLE", "1")
    checkpointer.load(str(path))
    assert (tmp_path / "made").is_dir()


@pytest.mark.fallback("detectron2")
@pytest.mark.parametrize("content", [b"", b"\x80", b"not a checkpoint at all", None])
@pytest.mark.parametrize("suffix", ["pth", "pkl"])
def test_a_damaged_file_is_an_error_that_names_it_and_the_checkpointer_stays_usable(tmp_path, content, suffix):
    model = Head()
    checkpointer = DetectionCheckpointer(model, str(tmp_path))
    checkpointer.save("good")
    good = (tmp_path / "good.pth").read_bytes()
    bad = tmp_path / f"bad.{suffix}"
    bad.write_bytes(good[: len(good) // 2] if content is None else content)
    with pytest.raises(RuntimeError, match=f"bad.{suffix} is damaged or no checkpoint"):
        checkpointer.load(str(bad))
    assert checkpointer.load(str(tmp_path / "good.pth")) == {}


@pytest.mark.fallback("detectron2")
def test_a_file_without_state_dict_names_its_keys(tmp_path):
    torch.save({"weights": {}, "epoch": 3}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match="'weights', 'epoch'"):
        DetectionCheckpointer(Head()).load(str(tmp_path / "a.pth"))


@pytest.mark.parametrize(
    "layout", ["bare", "module", pytest.param("state_dict", marks=pytest.mark.fallback("detectron2"))]
)
def test_state_dicts_of_other_programs_load(tmp_path, layout):
    source, target = Head(), Head()
    state = source.state_dict()
    content = {
        "bare": state,
        "module": {"model": {f"module.{name}": value for name, value in state.items()}},
        "state_dict": {"state_dict": state, "epoch": 3},
    }[layout]
    torch.save(content, tmp_path / "a.pth")
    rest = DetectionCheckpointer(target).load(str(tmp_path / "a.pth"))
    assert equal(values(target), values(source))
    assert rest == ({"epoch": 3} if layout == "state_dict" else {})


def test_a_zoo_pickle_of_arrays_loads(tmp_path):
    source, target = Head(), Head()
    arrays = {name: value.numpy() for name, value in source.state_dict().items()}
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"model": arrays, "__author__": "someone"}))
    DetectionCheckpointer(target).load(str(tmp_path / "a.pkl"))
    assert equal(values(target), values(source))


def test_a_value_that_is_no_array_is_named(tmp_path):
    torch.save({"model": {**Head().state_dict(), "head.scale": 3.0}}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match="head.scale"):
        DetectionCheckpointer(Head()).load(str(tmp_path / "a.pth"))


def test_other_shapes_and_missing_and_unexpected_keys_are_warned_about_and_the_rest_loads(tmp_path, logged):
    source, target = Head(classes=7), Head(classes=3)
    state = source.state_dict()
    del state["net.0.bias"]
    torch.save({"model": {**state, "tail.weight": torch.ones(1)}}, tmp_path / "a.pth")
    head_before = target.head.weight.clone()
    messages = logged("fvcore.common.checkpoint")
    DetectionCheckpointer(target).load(str(tmp_path / "a.pth"))
    assert torch.equal(target.net[0].weight, source.net[0].weight) and torch.equal(target.head.weight, head_before)
    text = "\n".join(messages)
    assert "head.weight" in text and "(7, 5)" in text and "(3, 5)" in text
    assert "net.0" in text and "tail" in text


class WithConstantsAndSharing(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(2, 2)
        self.alias = self.first
        self.register_buffer("pixel_mean", torch.zeros(3))


def test_constants_and_other_names_of_loaded_tensors_are_not_reported(tmp_path, logged):
    source, target = WithConstantsAndSharing(), WithConstantsAndSharing()
    state = {name: value for name, value in source.state_dict().items() if name.startswith("alias.")}
    torch.save({"model": state}, tmp_path / "a.pth")
    messages = logged("fvcore.common.checkpoint")
    DetectionCheckpointer(target).load(str(tmp_path / "a.pth"))
    assert torch.equal(target.first.weight, source.first.weight)
    assert not any("not found in the checkpoint" in m or "pixel_mean" in m for m in messages), messages


def test_matching_heuristics_go_by_the_longest_ending(tmp_path):
    target = Head()
    state = {"0.weight": torch.full((5, 4), 1.0), "net.0.bias": torch.full((5,), 2.0), "bias": torch.full((3,), 3.0)}
    torch.save({"model": state}, tmp_path / "a.pth")
    DetectionCheckpointer(target).load(f"{tmp_path}/a.pth?matching_heuristics=True")
    assert (target.net[0].weight == 1).all() and (target.net[0].bias == 2).all() and (target.head.bias == 3).all()


def test_an_ambiguous_match_and_an_unknown_query_are_value_errors(tmp_path):
    torch.save({"model": {"bias": torch.ones(5)}}, tmp_path / "a.pth")  # fits net.0.bias and net.1.bias
    with pytest.raises(ValueError):
        DetectionCheckpointer(Head()).load(f"{tmp_path}/a.pth?matching_heuristics=True")
    with pytest.raises(ValueError):
        DetectionCheckpointer(Head()).load(f"{tmp_path}/a.pth?something=1")


# --- the schedule of saving -------------------------------------------------------------------------------------


def run(folder, iterations, **kwargs) -> list[str]:
    """Names of the checkpoints after a run over `iterations`."""
    checkpointer = DetectionCheckpointer(nn.Linear(1, 1), str(folder))
    periodic = PeriodicCheckpointer(checkpointer, **kwargs)
    for iteration in iterations:
        periodic.step(iteration)
    return sorted(path.stem for path in folder.glob("*.pth"))


def test_checkpoints_are_saved_every_period_and_at_the_end(tmp_path):
    names = run(tmp_path, range(8), period=3, max_iter=8)
    assert names == ["model_0000002", "model_0000005", "model_final"]
    assert torch.load(tmp_path / "model_0000005.pth", weights_only=True)["iteration"] == 5
    assert torch.load(tmp_path / "model_final.pth", weights_only=True)["iteration"] == 7


def test_the_newest_checkpoints_are_kept(tmp_path):
    names = run(tmp_path, range(10), period=2, max_iter=10, max_to_keep=2, file_prefix="net")
    assert names == ["net_0000007", "net_0000009", "net_final"]


@pytest.mark.fallback("detectron2")
def test_files_of_earlier_runs_count_as_kept_but_later_ones_stay(tmp_path):
    run(tmp_path, range(4), period=2, max_to_keep=2)
    (tmp_path / "model_0000099.pth").write_bytes(b"of a longer run")
    (tmp_path / "model_best.pth").write_bytes(b"")
    names = run(tmp_path, range(4, 8), period=2, max_to_keep=2)
    assert names == ["model_0000005", "model_0000007", "model_0000099", "model_best"]


@pytest.mark.fallback("detectron2")
@pytest.mark.parametrize("period", [0, -1])
def test_without_a_period_only_the_final_checkpoint_is_saved(tmp_path, period):
    assert run(tmp_path, range(4), period=period, max_iter=4) == ["model_final"]
