"""All commands are found, start at once, and end alike: one line for a mistake, the same statuses, the same flags."""

import importlib
import math
import re
import subprocess
import sys
from pathlib import Path

import pytest

import dinov2_detrex.commands
from dinov2_detrex import cli
from dinov2_detrex.config.recipes import named_recipes
from dinov2_detrex.runtime.errors import UsageError, UserError

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = sorted((ROOT / "tools").glob("*.py"))
RECIPE = "projects/dino_dinov2/configs/shapes/dino_dinov2_tiny_shapes.py"
TAKE_CONFIGS = (
    "train",
    "predict --weights absent.pth absent.png",
    "draw",
    "analyze",
    "data show",
    "data check",
    "data split --output-dir absent",
    "data stats",
    "benchmark step",
)

HELP_OF_ALL = """
import importlib, sys
from dinov2_detrex import cli

def names(package, above=""):
    for name in cli.subcommands(package):
        module = importlib.import_module(f"{package.__name__}.{name}")
        yield f"{above}{name}"
        if hasattr(module, "__path__"):
            yield from names(module, f"{above}{name} ")

found = list(names(importlib.import_module(cli.COMMANDS)))
for name in found:
    assert cli.run_command(name, ["--help"]) == 0, name
assert {"train", "predict", "data show", "benchmark step"} <= set(found)
print("imported:", *sorted({"torch", "detectron2", "timm", "matplotlib"} & set(sys.modules)))
"""


def test_the_help_of_no_command_waits_for_torch(python, python_env):
    done = subprocess.run([python, "-c", HELP_OF_ALL], env=python_env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "imported:"


def command_lines():
    """What help and documentation tell people to type, those lines that name a recipe."""
    pages = [page for folder in ("tutorials", "how_to", "concepts") for page in (ROOT / "docs" / folder).glob("*.md")]
    sources = [*(ROOT / "dinov2_detrex/commands").rglob("*.py"), *pages, ROOT / "README.md"]
    lines = [line for path in sources for line in path.read_text().splitlines()]
    return [line for line in lines if re.search(r"dinov2-detrex |tools/\w+\.py ", line) and "dino_dinov" in line]


def test_recipes_are_named_as_they_are_found():
    lines = command_lines()
    names = {name for line in lines for name in re.findall(r"(?<![\w/])[\w/]*dino_dinov\w+(?:\.py)?", line)}
    recipes = {name for name in names if not name.startswith("output/")}
    found = {name for name in recipes if name in named_recipes() or (ROOT / name).is_file()}
    assert len(recipes) > 3 and recipes == found


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_every_script_in_tools_opens_the_door_to_a_command_from_any_folder(script, python, tmp_path):
    done = subprocess.run([python, script, "--help"], capture_output=True, text=True, timeout=300, cwd=tmp_path)
    assert done.returncode == 0 and done.stdout.startswith(f"usage: {script.name}"), done.stderr


def one_error_line(capsys) -> str:
    stderr = capsys.readouterr().err
    assert stderr.startswith("error: ") and stderr.count("\n") == 1, stderr
    return stderr


@pytest.mark.parametrize("command", TAKE_CONFIGS)
@pytest.mark.parametrize(
    "arguments, words",
    [
        (("--config-file", RECIPE, "train.max_itr=1"), "did you mean train.max_iter"),
        (("train.max_itr=1", "--config-file", RECIPE), "did you mean train.max_iter"),
        (("--config-file", "absent.py"), "'absent.py' does not exist"),
        (("--config-file", RECIPE, "--cofnig"), "--cofnig"),
        (("--config-fil", RECIPE), "--config-fil"),
    ],
)
def test_configs_and_overrides_are_given_and_refused_alike_everywhere(command, arguments, words, capsys):
    name, *own = command.split(" --")
    own = [f"--{own[0]}".split(), arguments] if own else [[], arguments]
    assert cli.run_command(name, [*own[0], *own[1]]) == 2
    assert words in one_error_line(capsys)


@pytest.mark.parametrize("command", [name for name in TAKE_CONFIGS if name != "benchmark step"])
def test_a_command_without_its_config_asks_for_it(command, capsys):
    name, *own = command.split(" --")
    assert cli.run_command(name, f"--{own[0]}".split() if own else []) == 2
    assert "--config-file FILE" in one_error_line(capsys)


def all_commands(package=dinov2_detrex.commands, above=""):
    for name in cli.subcommands(package):
        module = importlib.import_module(f"{package.__name__}.{name.replace('-', '_')}")
        if hasattr(module, "__path__"):
            yield from all_commands(module, f"{above}{name} ")
        else:
            yield above + name, module


OWN_TYPES = {"benchmark detector --size"}  # sides of images, tests/analysis/benchmark/test_detector_benchmark.py


def flags_with_numbers():
    for name, module in all_commands():
        parser = cli.Parser(module)
        module.add_arguments(parser)
        for action in parser._actions:
            if action.type is not None and f"{name} {action.option_strings[0]}" not in OWN_TYPES:
                yield pytest.param(name, action, id=f"{name} {action.option_strings[0]}")


@pytest.mark.parametrize("command, action", flags_with_numbers())
def test_a_number_outside_of_a_flags_range_is_one_line_that_names_flag_and_range(command, action, capsys):
    allowed = action.type
    assert isinstance(allowed, cli.Number), "a flag that takes numbers says which"
    refused = [str(allowed.low - 1), "abc", "nan", "inf", "-inf", "", "true", str(2**70)]
    refused += ["0.5"] if not allowed.fraction else []
    refused += [str(allowed.high + 1)] if allowed.high < math.inf else []
    for text in refused:
        flag = action.option_strings[0]
        given = [f"{flag}={text}"] if not isinstance(action.nargs, int) else [flag, *["1"] * (action.nargs - 1), text]
        assert cli.run_command(command, ["some.png", *given]) == 2, text
        line = one_error_line(capsys)
        assert flag in line and (str(allowed) in line or "expected" in line), line
    default = allowed.low if action.nargs is not None or action.default is None else action.default
    for number in {allowed.low, min(allowed.high, 100), default}:
        assert allowed(str(number)) == number


def test_a_new_command_is_one_file(tmp_path, monkeypatch, capsys):
    (tmp_path / "count_words.py").write_text(
        '"""Count words."""\n'
        "def add_arguments(parser):\n    parser.add_argument('words', nargs='*')\n"
        "def run(args):\n    print(len(args.words))\n    return 7\n"
    )
    monkeypatch.setattr(dinov2_detrex.commands, "__path__", [*dinov2_detrex.commands.__path__, str(tmp_path)])
    monkeypatch.delitem(sys.modules, "dinov2_detrex.commands.count_words", raising=False)
    assert cli.main(["count-words", "a", "b"]) == 7 and capsys.readouterr().out == "2\n"
    assert cli.main(["--help"]) == 0 and "count-words  Count words." in capsys.readouterr().out


@pytest.mark.parametrize(
    "words, hint",
    [
        (["trian"], "did you mean train?"),
        (["data", "x"], "there are check, clutter, convert, shapes, show, split, stats"),
    ],
)
def test_an_unknown_command_is_answered_with_near_ones_or_all(words, hint, capsys):
    assert cli.main(words) == 2
    assert hint in one_error_line(capsys)


@pytest.mark.parametrize(
    "error, status, line",
    [
        (UserError("first\n  second"), 1, "error: first second"),
        (UsageError("what"), 2, "error: what"),
        (FileNotFoundError(2, "No such file or directory", "a.jpg"), 1, "error: [Errno 2] No such file"),
        (BrokenPipeError("of a worker"), 1, "error: of a worker"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (KeyboardInterrupt("--resume goes on"), 130, "interrupted; --resume goes on"),
    ],
)
def test_what_ends_a_tool_decides_line_and_status(error, status, line, capsys):
    def tool(argv):
        raise error

    assert cli.run_tool(tool, []) == status
    stderr = capsys.readouterr().err
    assert stderr.startswith(line) and stderr.count("\n") == 1


def test_debug_shows_the_traceback_before_the_line(capsys):
    def tool(argv):
        raise UserError("what")

    assert cli.run_tool(tool, ["--debug"]) == 1
    stderr = capsys.readouterr().err
    assert stderr.startswith("Traceback") and stderr.endswith("\nerror: what\n")


def test_a_bug_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        cli.run_tool(lambda argv: 1 // 0, [])


def test_under_torchrun_the_line_names_the_process(monkeypatch, capsys):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "3")
    assert cli.run_command("train", ["--config-file", "absent.py"]) == 2
    assert capsys.readouterr().err.startswith("[rank 3] error: ")


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_has_seen_enough_ends_the_command_in_silence(unbuffered, python, python_env):
    env = {**python_env, "PYTHONUNBUFFERED": unbuffered}
    line = [python, "-m", "dinov2_detrex.env"]
    process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env, text=True)
    process.stdout.close()
    stderr = process.stderr.read()
    assert process.wait(timeout=300) == 141 and not stderr


def test_pictures_and_overrides_are_told_apart(tmp_path, monkeypatch, capsys):
    from dinov2_detrex import inference

    class Ended(Exception):
        pass

    def predictor(cfg, weights, *rest, **options):
        raise Ended(cfg.train.seed, cfg.train.max_iter)

    monkeypatch.setattr(inference, "Predictor", predictor)
    given = ["--config-file", RECIPE, "--weights", "w.pth"]
    (tmp_path / "x=1.png").touch()
    picture = str(tmp_path / "x=1.png")
    with pytest.raises(Ended) as caught:
        cli.run_command("predict", [picture, "train.seed=5", *given, "--opts", "train.max_iter=6"])
    assert caught.value.args == (5, 6)
    assert cli.run_command("predict", ["train.seed=5", *given]) == 2
    assert "no picture" in one_error_line(capsys)
