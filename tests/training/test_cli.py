"""The command line: every mistake a user can make is one line on stderr that names it, and a status that is not 0."""

import contextlib
import fcntl
import json
import os
import pty
import signal
import struct
import subprocess
import termios
import time
from pathlib import Path

import pytest
import torch
from detectron2.config import LazyConfig

from dinov2_detrex.cli import run_command
from dinov2_detrex.config import recipes_dir
from dinov2_detrex.config.loading import find_config
from dinov2_detrex.runtime.files import UNSAFE_PICKLE
from dinov2_detrex.training import checkpoint, cli

CONFIG = Path(__file__).with_name("tiny_config.py")
SHORT = ("train.max_iter=2", "train.eval_period=0")
COCO = "projects/dino_dinov2/configs/COCO/dino_dinov2_b_12ep.py"
BOMB = [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 30)]  # 9 to the power of 29 values


@pytest.mark.parametrize(
    "arguments, status, words",
    [
        (["train.max_itr=5"], 2, ["'train.max_itr'", "did you mean train.max_iter"]),
        (["+train.max_itr=5"], 2, ["'train.max_itr'", "did you mean train.max_iter"]),
        (["train.max_iter"], 2, ["'train.max_iter'", "key=value"]),
        (["train.max_iter=abc"], 2, ["train.max_iter", "number", "'abc'"]),
        (["model.width=${nowhere}"], 2, ["model.width", "nowhere"]),
        (["--resum"], 2, ["--resum", "--help"]),
        (["train.init_checkpoint=missing.pth"], 1, ["missing.pth"]),
        (["dataloader.train.dataset.json_file=/missing/train.json"], 1, ["tiny_train", "/missing/train.json"]),
        (["dataloader.test.dataset.image_root=/missing"], 1, ["tiny_val", "/missing"]),
        (["dataloader.train.dataset={names:nosuchset,json_file:null,image_root:null}"], 1, ["'nosuchset'"]),
        (
            ["dataloader.train.total_batch_size=3", "train.accumulate.steps=2"],
            2,
            ["total_batch_size=3", "multiple of 2"],
        ),
        (["model.dropout=7"], 1, ["model", "--debug"]),
        (["train.amp.enabled=true", "train.amp.dtype=int8"], 2, ["train.amp.dtype=int8", "bfloat16"]),
        (["train.scale_lr={reference_batch_size:1,rule:cubic}"], 2, ["cubic", "linear"]),
    ],
)
def test_a_mistake_is_one_line_that_names_it(train, capfd, arguments, status, words):
    found, _ = train("run", *arguments)
    stderr = capfd.readouterr().err.strip()
    assert found == status
    assert stderr.count("\n") == 0 and stderr.startswith("error: "), stderr
    assert all(word in stderr for word in words), stderr


@pytest.mark.parametrize(
    "arguments, words",
    [
        ([], ["--config-file"]),
        (["--config-file", "dino_dinov2_b_12e.py"], ["'dino_dinov2_b_12e.py'", COCO]),
        (["--config-file", "configs/common/optim.py"], ["optim.py", "no training config"]),
        (["--config-file", COCO, "--num-gpus", "99"], ["--num-gpus 99"]),
        (["--config-file", COCO, "--machine-rank", "3", "--num-machines", "2"], ["--machine-rank 3"]),
    ],
)
def test_a_wrong_flag_is_one_line_that_names_it(capfd, arguments, words):
    assert run_command("train", arguments) == 2
    stderr = capfd.readouterr().err.strip()
    assert stderr.count("\n") == 0 and all(word in stderr for word in words), stderr


@pytest.mark.parametrize(
    "name, text, words",
    [
        ("absent.py", "from .elsewhere import model", ["ImportError", "elsewhere"]),
        ("typo.py", "model = dikt()", ["NameError", "dikt"]),
        ("broken.py", "model = dict(", ["SyntaxError"]),
        ("broken.yaml", "model: [", ["broken.yaml"]),
        ("ends.py", "import sys\n\nsys.exit(3)", ["ends.py:3", "SystemExit", "3"]),
        ("raises.py", "raise ValueError('two\\nlines')", ["raises.py:1", "ValueError: two lines"]),
        ("latin.py", b"note = 'caf\xe9'", ["latin.py", "utf-8"]),
        ("latin.yaml", b"model: caf\xe9", ["UnicodeDecodeError"]),
        ("zeros.py", b"\0\0", ["Error"]),
        ("circle.py", "from .circle import model", ["circle.py"]),
        ("twice.yaml", "train:\n  seed: 1\n  max_iter: 2\n  seed: 3\n", ["line 4", "'seed'", "line 2"]),
        ("itself.yaml", "model: &a\n  x: *a\n", ["line 1", "contains itself"]),
        ("calls.yaml", "model: !!python/object/apply:os.system [true]", ["line 1", "python/object/apply:os.system"]),
        ("bomb.yaml", "\n".join(["a0: &a0 [x]", *BOMB]), ["100000 values"]),
        pytest.param("deep.yaml", "[" * 20000, ["deep.yaml"], id="deep.yaml"),
        ("config.json", "{}", ["config.json"]),
    ],
)
def test_a_config_that_cannot_be_loaded_is_one_line_with_the_cause(tmp_path, capfd, name, text, words):
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    assert run_command("train", ["--config-file", str(tmp_path / name)]) == 2
    stderr = capfd.readouterr().err.strip()
    assert stderr.count("\n") == 0 and all(word in stderr for word in [name, *words]), stderr


@pytest.mark.parametrize(
    "statement, words",
    [
        ("from .base import model", ["mine.py:1", "base", "model"]),
        ("from .absent import model", ["mine.py:1", "absent.py"]),
        ("from ..absent.base import model", ["mine.py:1", "absent/base.py"]),
        ("from . import base", ["mine.py:1", "import"]),
    ],
)
def test_a_mistaken_relative_import_is_one_line_with_the_name_that_is_missing(tmp_path, capfd, statement, words):
    (tmp_path / "base.py").write_text("note = 1\n")
    (tmp_path / "mine.py").write_text(f"{statement}\n")
    assert run_command("train", ["--config-file", str(tmp_path / "mine.py")]) == 2
    stderr = capfd.readouterr().err.strip()
    assert stderr.count("\n") == 0 and all(word in stderr for word in words), stderr


def test_an_output_folder_that_cannot_be_made_is_one_line_that_names_it(train, tmp_path, capfd):
    (tmp_path / "file").touch()
    assert train("file/run")[0] == 1
    stderr = capfd.readouterr().err.strip()
    assert stderr.count("\n") == 0 and f"train.output_dir={tmp_path / 'file/run'}" in stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason="about machines without a GPU")
def test_cuda_where_there_is_none_is_refused_with_the_way_out(train, capfd):
    assert train("run", "train.device=cuda")[0] == 2
    assert "train.device=cpu" in capfd.readouterr().err


def test_a_missing_coco_is_answered_with_the_expected_folders(monkeypatch, tmp_path, capfd):
    monkeypatch.chdir(tmp_path)
    assert run_command("train", ["--config-file", COCO, "train.device=cpu", f"train.output_dir={tmp_path}"]) == 1
    stderr = capfd.readouterr().err
    assert "instances_train2017.json" in stderr and "train2017" in stderr and "DETECTRON2_DATASETS" in stderr


def test_weights_that_cannot_be_downloaded_are_named_with_the_cause(train, monkeypatch, tmp_path, capfd):
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "cache"))
    assert train("run", "train.init_checkpoint=http://127.0.0.1:9/x.pth")[0] == 1  # nothing listens on port 9
    last = capfd.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("error: train.init_checkpoint=http://127.0.0.1:9/x.pth cannot be loaded: ")


def test_debug_shows_where_an_error_came_from(train, capfd):
    assert train("run", "--debug", "model.dropout=7")[0] == 1
    stderr = capfd.readouterr().err
    assert "Traceback" in stderr and stderr.strip().splitlines()[-1].startswith("error: ")


def test_flags_may_follow_overrides(train):
    status, folder = train("run", *SHORT)
    status, folder = train("run", "train.max_iter=3", "--resume", "train.eval_period=0")
    assert status == 0 and checkpoint.read(folder / "model_final.pth")["iteration"] == 2


def test_a_config_is_found_among_the_recipes_from_any_folder(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert find_config(COCO) == recipes_dir() / COCO


def test_a_train_section_written_for_detrex_gets_this_projects_keys_and_keeps_its_own(tiny_env):
    cfg = cli.load(str(CONFIG), [])
    assert cfg.train.accumulate.steps == 1 and cfg.train.max_iter == 12 and cfg.train.model_ema.decay == 0.8


def test_the_saved_config_is_the_effective_one_and_runs_again(train, tmp_path):
    _, folder = train("run", *SHORT, "model.width=6", "train.seed=-1", "train.device=null")
    saved = LazyConfig.load(str(folder / "config.yaml"))
    assert saved.model.width == 6 and saved.train.seed >= 0 and saved.train.device in ("cpu", "cuda")
    assert saved.dataloader.evaluator.dataset_name == "tiny_val"  # a reference in the config file, resolved
    again = tmp_path / "again"
    assert run_command("train", ["--config-file", str(folder / "config.yaml"), f"train.output_dir={again}"]) == 0
    first, second = (checkpoint.read(f / "model_final.pth")["model"] for f in (folder, again))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_fast_dev_run_passes_through_everything_in_twenty_iterations(train):
    _, folder = train("run", "train.fast_dev_run.enabled=true", "train.max_iter=100000")
    saved = LazyConfig.load(str(folder / "config.yaml")).train
    assert (saved.max_iter, saved.eval_period, saved.log_period) == (20, 10, 1)
    records = [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]
    assert [r["iteration"] for r in records if "bbox/AP" in r] == [9, 20] and len(records) == 21


def test_eval_only_prints_the_results_of_the_given_weights(train, capfd):
    _, folder = train("run", *SHORT)
    expected = json.loads((folder / "metrics.json").read_text().splitlines()[-1])
    capfd.readouterr()
    status, _ = train("eval", "--eval-only", f"train.init_checkpoint={folder}/model_final.pth")
    assert status == 0 and f"'AP50': {expected['bbox/AP50']}" in capfd.readouterr().out


def test_eval_only_warns_where_the_data_set_has_other_classes_than_the_weights(train, capfd, tmp_path):
    _, folder = train("run", *SHORT)
    arguments = ("--eval-only", "train.init_checkpoint=" + str(tmp_path / "other.pth"))
    content = checkpoint.read(folder / "model_final.pth")
    checkpoint.write(tmp_path / "other.pth", content)
    assert train("same", *arguments)[0] == 0
    assert "were trained on the classes" not in capfd.readouterr().out
    content["metadata"]["thing_classes"] = ["cat", "dog", "cow"]
    checkpoint.write(tmp_path / "other.pth", content)
    assert train("other", *arguments)[0] == 0
    out = capfd.readouterr().out
    assert "trained on the classes ['cat', 'dog', 'cow']" in out and "has ['circle', 'triangle', 'square']" in out


def test_eval_only_takes_the_averaged_weights_when_asked(train, capfd):
    _, folder = train("run", *SHORT)
    weights = f"train.init_checkpoint={folder}/model_final.pth"
    status, _ = train("eval", "--eval-only", weights, "train.model_ema.use_ema_weights_for_eval_only=true")
    assert status == 0 and "averaged weights" in capfd.readouterr().out
    bare = {"model": checkpoint.read(folder / "model_final.pth")["model"]}
    checkpoint.write(folder / "bare.pth", bare)
    bad = (f"train.init_checkpoint={folder}/bare.pth", "train.model_ema.use_ema_weights_for_eval_only=true")
    assert train("eval", "--eval-only", *bad)[0] == 1
    assert "ema_state" in capfd.readouterr().err


def test_eval_only_without_weights_warns(train, capfd):
    assert train("eval", "--eval-only")[0] == 0
    assert "as the model was built" in capfd.readouterr().out


def test_eval_only_without_an_evaluator_says_so_and_gives_nothing(train, capfd):
    assert train("eval", "--eval-only", "dataloader.evaluator=null")[0] == 0
    out = capfd.readouterr().out
    unlogged = [line for line in out.splitlines() if not line.startswith("[")]  # a busy machine may log one behind
    assert "no dataloader.evaluator" in out and unlogged[-1] == "{}"


def test_a_checkpoint_that_would_run_code_is_refused_as_initial_weights(train, tmp_path, capfd):
    torch.save({"model": {}, "args": cli.run_from_command_line}, tmp_path / "bad.pth")
    assert train("run", f"train.init_checkpoint={tmp_path}/bad.pth")[0] == 1
    stderr = capfd.readouterr().err
    assert stderr.count("\n") == 1 and UNSAFE_PICKLE in stderr


def test_training_from_given_weights_starts_from_them_at_iteration_0(train):
    _, first = train("first", *SHORT)
    _, second = train("second", "train.max_iter=1", "optimizer.lr=0", f"train.init_checkpoint={first}/model_final.pth")
    start, end = (checkpoint.read(f / "model_final.pth") for f in (first, second))
    assert torch.equal(start["model"]["box.weight"], end["model"]["box.weight"]) and end["iteration"] == 0


def test_weights_for_more_classes_give_the_rows_of_the_old_ones_and_say_so(train, tiny_shapes, tmp_path, capfd):
    document = json.loads((tiny_shapes / "annotations" / "instances_train.json").read_text())
    document["categories"] += [{"id": 101, "name": "fourth"}, {"id": 102, "name": "fifth"}]
    (tmp_path / "five.json").write_text(json.dumps(document))
    data = [f"dataloader.{split}.dataset.json_file={tmp_path / 'five.json'}" for split in ("train", "test")]
    data += ["dataloader.train.dataset.names=five", "dataloader.test.dataset.names=five_test"]
    data += ["dataloader.test.dataset.image_root=${dataloader.train.dataset.image_root}", "train.eval_period=0"]
    _, first = train("first", *SHORT)
    capfd.readouterr()
    given = f"train.init_checkpoint={first}/model_final.pth"
    assert train("second", "train.max_iter=1", "optimizer.lr=0", "model.num_classes=5", given, *data)[0] == 0
    out = capfd.readouterr().out
    assert "classes: 3 of 5 by name [circle, triangle, square]; as built [fourth, fifth]" in out
    start, end = (checkpoint.read(f / "model_final.pth")["model"] for f in (first, first.parent / "second"))
    assert torch.equal(start["box.weight"], end["box.weight"]) and end["cls.weight"].shape[0] == 5
    assert torch.equal(start["cls.weight"], end["cls.weight"][:3])


def test_weights_for_as_many_other_classes_give_all_but_the_class_sized_tensors_and_say_so(
    train, tiny_shapes, tmp_path, capfd
):
    document = json.loads((tiny_shapes / "annotations" / "instances_train.json").read_text())
    for category in document["categories"]:
        category["name"] = "other " + category["name"]
    (tmp_path / "other.json").write_text(json.dumps(document))
    data = "dataloader.train.dataset.names=other", f"dataloader.train.dataset.json_file={tmp_path / 'other.json'}"
    still = ("train.max_iter=1", "train.eval_period=0", "optimizer.lr=0")
    _, built = train("built", *still)
    _, first = train("first", *SHORT)
    given = f"train.init_checkpoint={first}/model_final.pth"
    capfd.readouterr()
    _, same = train("same", *still, given)
    assert "by name [" not in capfd.readouterr().out
    _, other = train("other", *still, given, *data)
    out = capfd.readouterr().out
    assert "classes: 0 of 3 by name []; as built [other circle, " in out
    states = [checkpoint.read(folder / "model_final.pth")["model"] for folder in (built, first, same, other)]
    built, first, same, other = ({name: state[name] for name in ("cls.weight", "box.weight")} for state in states)
    assert not torch.equal(first["cls.weight"], built["cls.weight"])
    assert torch.equal(same["cls.weight"], first["cls.weight"])
    assert torch.equal(other["cls.weight"], built["cls.weight"])
    assert torch.equal(other["box.weight"], first["box.weight"])


def _heed_interrupts():
    """A shell's background jobs ignore SIGINT and hand that on; the child here is to be interrupted all the same."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_interrupting_ends_with_one_line_that_says_how_to_go_on(command):
    line, keywords, folder = command("run", "train.max_iter=100000", "model.pause=0.02")
    streams = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    process = subprocess.Popen(line, text=True, preexec_fn=_heed_interrupts, **streams, **keywords)
    while not list(folder.glob("model_*.pth")) and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    try:
        _, stderr = process.communicate(timeout=300)
    finally:
        process.kill()  # whatever happened, no run is left behind
    assert process.returncode == 130 and stderr.strip().count("\n") == 0 and "--resume" in stderr


def test_resuming_with_another_model_is_refused_with_a_name(train, capfd):
    train("run", *SHORT)
    assert train("run", "--resume", "train.max_iter=3", "model.width=5")[0] == 1
    assert "another model" in capfd.readouterr().err


@pytest.mark.parametrize(
    "options, words",
    [
        (("optimizer._target_=torch.optim.SGD",), ["another optimizer than SGD", "no dampening, ", "momentum"]),
        (("optimizer.params.weight_decay_norm=null",), ["has 2 parameter groups", "config's has 1 of"]),
        (("train.max_iter=1",), ["has 2 iterations behind it", "train.max_iter=1"]),
        (("model.num_classes=5",), ["model.num_classes=5", "3 classes"]),
    ],
)
def test_a_state_that_is_not_this_configs_is_one_line_and_nothing_is_written_over(train, capfd, options, words):
    _, folder = train("run", *SHORT)
    capfd.readouterr()
    kept = ("model_final.pth", "metrics.json", "last_checkpoint")
    before = [(folder / name).read_bytes() for name in kept]
    assert train("run", "--resume", "train.max_iter=3", *options)[0] == 1
    stderr = capfd.readouterr().err
    assert stderr.count("\n") == 1 and all(word in stderr for word in words), stderr
    assert [(folder / name).read_bytes() for name in kept] == before


def test_resuming_with_an_average_that_was_not_kept_is_one_line(train, capfd):
    train("run", *SHORT, "train.model_ema.enabled=false")
    assert train("run", "--resume", "train.max_iter=3")[0] == 1
    stderr = capfd.readouterr().err
    assert stderr.count("\n") == 1 and "ema_state" in stderr and "train.model_ema.enabled=false" in stderr


def test_the_checkpoint_holds_the_class_names(train):
    _, folder = train("run", *SHORT)
    assert checkpoint.read(folder / "model_final.pth")["metadata"]["thing_classes"] == ["circle", "triangle", "square"]


def _read_all(descriptor):
    shown = b""
    with contextlib.suppress(OSError):  # how a terminal ends
        while chunk := os.read(descriptor, 4096):
            shown += chunk
    return shown.decode()


def test_on_a_terminal_there_is_a_bar_and_elsewhere_lines(command):
    line, keywords, _ = command("run", "train.max_iter=4", "train.eval_period=0", "dataloader.evaluator=null")
    master, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 150, 0, 0))
    process = subprocess.Popen(line, stdout=terminal, stderr=terminal, **keywords)
    os.close(terminal)
    text = _read_all(master)
    assert process.wait(timeout=300) == 0
    assert "4/4 [" in text and "total_loss=" in text
    assert "total_loss:" not in text  # the lines are in log.txt only
