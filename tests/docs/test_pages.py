"""What the documentation tells people to type works: tutorials run on tiny data, and every other command is one."""

import ast
import functools
import importlib
from pathlib import Path

import pytest
from fences import DOCS, ROOT, Block, blocks_of, commands_in, pages, reader_environment, run_block

from dinov2_detrex import cli
from dinov2_detrex.config.loading import load
from dinov2_detrex.config.recipes import named_recipes
from dinov2_detrex.data import generate_shapes

QUICK: set[str] = set()  # of the pages with blocks to run; the others take half a minute and more
OURS = ("dinov2_detrex", "detectron2", "detrex")
ONLY_INSTALLED = {"detectron2.model_zoo"}  # which the slice has not, and the page says so
OF_SCRIPTS = {
    "analyze_model": "analyze",
    "benchmark": "benchmark",
    "compare_patch_interpolation": "patches",
    "draw_predictions": "draw",
    "predict": "predict",
    "train_net": "train",
    "visualize_data": "data show",
}


def shown(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def marked_pages():
    for page in pages(marked=True):
        yield pytest.param(page, id=shown(page), marks=[] if page.name in QUICK else [pytest.mark.slow])


@pytest.mark.parametrize("page", marked_pages())
def test_what_a_page_shows_runs_from_top_to_bottom(page, tmp_path):
    generate_shapes(root=tmp_path / "datasets" / "shapes", num_train=12, num_val=4)
    environment = reader_environment(tmp_path)
    for block in blocks_of(page):
        if block.is_run:
            run_block(block, tmp_path, environment)


def shown_commands():
    """(page and line, words) of every command of this project in a shell block of the documentation."""
    for page in [*pages(), ROOT / "README.md"]:
        for block in blocks_of(page):
            if block.language == "bash":
                yield from ((f"{shown(page)}:{block.line}", words) for words in own_commands(block))


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
    generated = {"reference/api", "reference/commands", "reference/config", "reference/recipes", "tutorials/notebook"}
    written = {path.relative_to(DOCS).with_suffix("").as_posix() for path in pages()}
    assert {page for page in written | generated if page not in listed and "/api_" not in page} == {"index"}


def python_blocks():
    for page in pages():
        for block in blocks_of(page):
            if block.language == "python":
                yield pytest.param(block.text, id=f"{shown(page)}:{block.line}")


@pytest.mark.parametrize("text", python_blocks())
def test_every_python_block_is_python_and_imports_what_is_there(text):
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in OURS:
            module = importlib.import_module(node.module)
            for alias in node.names:
                if f"{node.module}.{alias.name}" not in ONLY_INSTALLED:
                    getattr(module, alias.name)
