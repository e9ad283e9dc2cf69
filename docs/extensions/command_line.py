"""Which commands are there, and which flags do they take? A page made of their own parsers and docstrings."""

import argparse
import importlib
from collections.abc import Iterator
from types import ModuleType

from docstrings import code, table

from dinov2_detrex import cli

PROGRAM = "dinov2-detrex"


def commands(package: ModuleType | None = None, above: str = "") -> Iterator[tuple[str, ModuleType]]:
    """(name, module) of every command, e.g. "data show", in the order of the help."""
    package = package or importlib.import_module(cli.COMMANDS)
    for name in cli.subcommands(package):
        module = importlib.import_module(f"{package.__name__}.{name.replace('-', '_')}")
        if hasattr(module, "__path__"):
            yield from commands(module, f"{above}{name} ")
        else:
            yield above + name, module


def parser_of(name: str, module: ModuleType) -> argparse.ArgumentParser:
    """The parser that the command makes when it runs."""
    parser = cli.Parser(module, f"{PROGRAM} {name}")
    module.add_arguments(parser)
    return parser


def page() -> str:
    """The whole page."""
    found = list(commands())
    listed = [[f"[`{name}`](#{_anchor(name)})", _first_line(module)] for name, module in found]
    sections = [_section(name, module) for name, module in found]
    return "\n\n".join([_INTRODUCTION, table(["command", "does"], listed), *sections]) + "\n"


_INTRODUCTION = """\
# Command line

Every command is `dinov2-detrex COMMAND`, and answers `--help` at once. In a checkout that is not installed, the scripts
in `tools/` open the same doors. Mistakes are one line on stderr and exit status 2; `--debug` shows the traceback as
well. Overrides, `key=value`, follow Hydra's grammar: see [config keys](config.md)."""


def _anchor(name: str) -> str:
    return f"{PROGRAM}-{name.replace(' ', '-')}"


def _first_line(module: ModuleType) -> str:
    return (module.__doc__ or "").strip().splitlines()[0]


def _section(name: str, module: ModuleType) -> str:
    parser = parser_of(name, module)
    first, _, rest = (module.__doc__ or "").strip().partition("\n")
    parts = [f"({_anchor(name)})=\n\n## {PROGRAM} {name}", first]
    if rest.strip():
        parts.append(f"```text\n{rest.strip(chr(10)).rstrip()}\n```")
    parts.append(f"```text\n{parser.format_usage().strip()}\n```")
    parts.append(table(["argument", "takes", "default", "is"], [_row(parser, action) for action in _shown(parser)]))
    return "\n\n".join(parts)


def _shown(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    hidden = (argparse.SUPPRESS,)
    return [action for action in parser._actions if action.help not in hidden and action.dest not in ("help", "debug")]


def _row(parser: argparse.ArgumentParser, action: argparse.Action) -> list[str]:
    name = ", ".join(action.option_strings) or str(action.metavar or action.dest)
    text = parser._get_formatter()._expand_help(action) if action.help else ""
    return [code(name), _takes(action), code(_default(action)), text + (" (required)" if _required(action) else "")]


def _required(action: argparse.Action) -> bool:
    return action.required and bool(action.option_strings)


def _takes(action: argparse.Action) -> str:
    if action.nargs == 0:
        return "nothing"
    if action.choices:
        kind = " or ".join(code(str(choice)) for choice in action.choices)
    elif isinstance(action.type, cli.Number):
        kind = str(action.type)
    else:
        kind = "text"
    many = {"*": "any number of: ", "+": "one or more of: "}
    return f"{action.nargs} times " + kind if isinstance(action.nargs, int) else many.get(str(action.nargs), "") + kind


def _default(action: argparse.Action) -> str:
    if action.nargs == 0 or action.default in (None, "", [], argparse.SUPPRESS):
        return ""
    values = action.default if isinstance(action.default, list | tuple) else [action.default]
    return " ".join(map(str, values))
