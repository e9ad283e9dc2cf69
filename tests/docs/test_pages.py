"""What the documentation tells people to type works: tutorials run on tiny data, and every other command is one."""

import ast
import functools
import importlib
import re
from pathlib import Path

import pytest
from fences import DOCS, GENERATED, README, ROOT, Block, blocks_of, commands_in, pages, reader_environment, run_page

from dinov2_detrex import cli
from dinov2_detrex.config.loading import load
from dinov2_detrex.config.recipes import named_recipes
from dinov2_detrex.data import generate_shapes

MEASURED = ROOT / "benchmarks" / "RESULTS.md"  # a part of the site; its indented commands run for hours
OURS = ("dinov2_detrex", "detectron2", "detrex")
NOT_RUN = {  # how a reason begins, why a shown block is not run
    "installs",  # packages, several GB of them
    "container",  # Docker is not there
    "GPUs",  # of which there is none
    "machines",  # several of them, or a cluster
    "uploads",  # to an account
    "downloads",  # of published files
}
OF_SCRIPTS = {
    "analyze_model": "analyze",
    "benchmark": "benchmark",
    "compare_patch_interpolation": "patches",
    "compare_recipes": "compare",
    "draw_predictions": "draw",
    "gpu_check": "benchmark gpu",
    "predict": "predict",
    "train_net": "train",
    "visualize_data": "data show",
}


def shown(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.slow
@pytest.mark.parametrize("page", [pytest.param(page, id=shown(page)) for page in [*pages(marked=True), README]])
def test_what_a_page_shows_runs_from_top_to_bottom(page, tmp_path):
    generate_shapes(root=tmp_path / "datasets" / "shapes", num_train=12, num_val=4)
    if left_out := run_page(page, tmp_path, reader_environment(tmp_path)):
        pytest.skip(f"the page runs, but for what lacks a package: {', '.join(left_out)}")


def test_every_shown_block_is_run_or_says_why_not():
    blocks = {f"{shown(page)}:{block.line}": block for page in [*pages(), README] for block in blocks_of(page)}
    programs = {place: block for place, block in blocks.items() if block.language in ("bash", "python")}
    assert len(programs) > 50
    assert [place for place, block in programs.items() if block.is_run == ("not run" in block.marks)] == []
    reasons = {place: block.marks["not run"] for place, block in programs.items() if not block.is_run}
    assert {place: reason for place, reason in reasons.items() if reason.split(":")[0] not in NOT_RUN} == {}


def test_no_command_stands_in_an_indented_block_where_nobody_runs_it():
    command = re.compile(r" {4}\$? *(dinov2-detrex|python|make|pip) ")
    lines = {f"{shown(page)}:{number}": line for page in [*pages(), README] for number, line in outside_fences(page)}
    assert [place for place, line in lines.items() if command.match(line)] == []


def outside_fences(page: Path):
    """(number, text) of the lines of a page that are in none of its fenced blocks."""
    fenced = False
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        fenced ^= line.startswith("```")
        if not fenced:
            yield number, line


def shown_commands():
    """(page and line, words) of every command of this project in a shell block of the documentation."""
    for page in [*pages(), README]:
        for block in blocks_of(page):
            if block.language == "bash":
                yield from ((f"{shown(page)}:{block.line}", words) for words in own_commands(block))
    for number, line in outside_fences(MEASURED):
        if re.match(r" {4}(python tools/|dinov2-detrex )", line) and "|" not in line:  # a|b: one of these
            block = Block(number, "bash", line.replace("[", "").replace("]", ""))
            yield from ((f"{shown(MEASURED)}:{number}", words) for words in own_commands(block))


def own_commands(block: Block):
    """The commands of a shell block that are this project's, from the name of the command on."""
    for words in commands_in(block):
        for position, word in enumerate(words):
            script = Path(word).stem if word.startswith("tools/") else None
            if word == "dinov2-detrex":
                yield words[position + 1 :]
                break
            if script:
                yield [*OF_SCRIPTS[script].split(), *words[position + 1 :]]
                break


def parsed(words: list[str]):
    """The name of the command, and its arguments as its own parser takes them; a UsageError says what it does not."""
    module, used = importlib.import_module(cli.COMMANDS), 0
    while hasattr(module, "__path__"):
        assert words[used] in cli.subcommands(module), f"{' '.join(words)}: there is no such command"
        module = importlib.import_module(f"{module.__name__}.{words[used].replace('-', '_')}")
        used += 1
    parser = cli.Parser(module)
    module.add_arguments(parser)
    rest = words[used : next((i for i, word in enumerate(words) if word in ("|", ">", "2>&1", "&&")), len(words))]
    return " ".join(words[:used]), parser.parse_intermixed_args(rest)


@pytest.mark.parametrize("place, words", [pytest.param(*found, id=found[0]) for found in shown_commands()])
def test_every_command_in_the_documentation_is_one_with_flags_and_keys_that_exist(place, words):
    if "--help" in words:
        return
    name, args = parsed(words)
    if not hasattr(args, "config_file"):
        return
    if name in ("train", "analyze", "draw", "data show", "benchmark step"):
        cli.take_config(args)
    own_data = any(word.startswith("data.") for word in args.overrides)  # which are not there; the tutorial makes some
    if args.config_file in named_recipes() and not own_data:
        loaded(args.config_file, tuple(word for word in args.overrides if cli.OVERRIDE.match(word)))


@functools.cache
def loaded(recipe: str, overrides: tuple[str, ...]):
    """The config; an error that names the override that is wrong."""
    return load(recipe, list(overrides))


def test_every_page_has_a_place_in_the_table_of_contents():
    listed = set((DOCS / "index.md").read_text(encoding="utf-8").splitlines())
    written = {path.relative_to(DOCS).with_suffix("").as_posix() for path in pages()}
    assert {page for page in written | GENERATED if page not in listed} == {"index"}


def python_blocks():
    for page in pages():
        for block in blocks_of(page):
            if block.language == "python":
                yield pytest.param(block, id=f"{shown(page)}:{block.line}")


@pytest.mark.parametrize("block", python_blocks())
def test_every_python_block_is_python_and_imports_what_is_there(block):
    tree = ast.parse(block.text)
    if block.missing:
        pytest.skip(f"needs {' '.join(block.missing)}")
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in OURS:
            module = importlib.import_module(node.module)
            for alias in node.names:
                getattr(module, alias.name)


def listed_in_readme() -> tuple[set[str], set[str]]:
    """(commands, scripts) of the lines `COMMANDS  SCRIPTS  # what for`; "data check, show" are two commands."""
    commands, scripts = set(), set()
    (listing,) = (block for block in blocks_of(README) if block.language == "text")
    for column in (column for line in listing.text.splitlines() for column in re.split("  +", line.split("#")[0])):
        first, *others = column.split(", ")
        group = first.split()[:-1]
        names = {first, *(" ".join([*group, name]) for name in others)} - {""}
        (scripts if first.endswith(".py") else commands).update(names)
    return commands, scripts


def all_commands(name: str = cli.COMMANDS, above: str = ""):
    """The full names of all commands, and of the groups that hold them, with True for a group."""
    package = importlib.import_module(name)
    for word in cli.subcommands(package):
        module = f"{name}.{word.replace('-', '_')}"
        is_group = hasattr(importlib.import_module(module), "__path__")
        yield f"{above}{word}", is_group
        if is_group:
            yield from all_commands(module, f"{above}{word} ")


def test_the_readme_lists_every_command_and_every_script_and_no_other():
    commands, scripts = listed_in_readme()
    assert scripts == {path.name for path in (ROOT / "tools").glob("*.py")}
    there = dict(all_commands())
    assert commands <= set(there)
    assert [name for name, is_group in there.items() if not is_group and not {name, name.split()[0]} & commands] == []


def test_the_page_on_installation_lists_every_extra_and_no_other():
    rows = re.findall(r"^\| (`.+?`) \|", (DOCS / "install.md").read_text(encoding="utf-8"), re.M)
    names = [name for row in rows for name in re.findall("`(.+?)`", row)]
    extras = (ROOT / "pyproject.toml").read_text(encoding="utf-8").split("[project.optional-dependencies]")[1]
    assert sorted(names) == sorted(re.findall(r"^(\w+) = \[", extras.split("\n[")[0], re.M))
