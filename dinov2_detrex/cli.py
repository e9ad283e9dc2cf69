"""What do all commands have in common? Where they are found, their shared flags, errors as one line, exit statuses.

A command is a module of `dinov2_detrex/commands/`: `commands/predict.py` is `dinov2-detrex predict`, and
`commands/data/show.py` is `dinov2-detrex data show`. Nothing else lists it. It has

    a docstring                             its help; the first line stands in the list of commands
    add_arguments(parser)                   its flags
    run(args) -> int | None                 its work, and its exit status (None: 0)

and imports what is slow in `run`, so that `--help` answers at once. The scripts in tools/ are doors to commands.
"""

import argparse
import importlib
import io
import math
import os
import pkgutil
import re
import select
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType

from dinov2_detrex.engine import silence_engines
from dinov2_detrex.runtime.errors import UsageError, UserError, did_you_mean
from dinov2_detrex.runtime.processes import under_torchrun

COMMANDS = "dinov2_detrex.commands"
OVERRIDE = re.compile(r"(\+\+?)?[A-Za-z_][\w.]*=|~[A-Za-z_]")  # how a change to a config begins
INTERRUPTED, PIPE_CLOSED = 130, 141  # exit statuses of shells: 128 + SIGINT, 128 + SIGPIPE


def main(argv: Sequence[str] | None = None) -> int:
    """`dinov2-detrex COMMAND ...`: run the command that the first words of `argv` (or the command line) name."""
    return run_tool(lambda words: _run_command((), words, "dinov2-detrex"), argv)


def run_command(name: str, argv: Sequence[str] | None = None) -> int:
    """Run the command `name`, e.g. "data show", with the arguments `argv` (or the command line's), as scripts do.

    Returns:
        the exit status.
    """
    return run_tool(lambda words: _run_command(tuple(name.split()), words), argv)


def run_tool(tool: Callable[[list[str]], int | None], argv: Sequence[str] | None = None) -> int:
    """Run `tool(argv)`; whatever ends it, say so as every command does.

    An error that its user can mend, and a file or disk that fails, is one line on stderr, with a traceback before it
    under `--debug`. Other errors are bugs and pass through.

    Args:
        tool: gets the arguments; returns an exit status, None for 0.
        argv: the arguments; None for the command line's.

    Returns:
        the exit status: the tool's or the error's own, 130 after Ctrl-C, 141 where the reader of the output is gone.
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    silence_engines()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files may be no text
    try:
        status = _ending(tool, argv)
        sys.stdout.flush()
        return status
    except KeyboardInterrupt as interrupt:
        print("; ".join(filter(None, ("interrupted", str(interrupt)))), file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError as error:
        return PIPE_CLOSED if _output_is_closed() else _failure(error, argv)
    except (UserError, OSError) as error:
        return _failure(error, argv)


def _ending(tool: Callable[[list[str]], int | None], argv: list[str]) -> int:
    """The tool's exit status, also where argparse ends it after `--help`."""
    try:
        return tool(argv) or 0
    except SystemExit as end:
        if not isinstance(end.code, int | None):  # a message
            raise
        return end.code or 0


def _failure(error: UserError | OSError, argv: list[str]) -> int:
    """Report the error; its exit status."""
    if "--debug" in argv:
        traceback.print_exc()
    rank = f"[rank {os.environ['RANK']}] " if under_torchrun() else ""
    print(f"{rank}error: {' '.join(str(error).split())}", file=sys.stderr)
    return error.exit_status if isinstance(error, UserError) else 1


def _output_is_closed() -> bool:
    """True where nobody reads stdout any more; then what is still buffered goes nowhere, without complaint."""
    try:
        sys.stdout.flush()
        closed = _reader_is_gone(sys.stdout.fileno())  # asked for as well: unbuffered output leaves nothing to flush
    except BrokenPipeError:
        closed = True
    except io.UnsupportedOperation:  # no stream of the operating system
        return False
    if closed:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return closed


def _reader_is_gone(descriptor: int) -> bool:
    """True for a pipe without a reader, where the system can tell (not on Windows)."""
    if not hasattr(select, "poll"):
        return False
    poll = select.poll()
    poll.register(descriptor, 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


# ------------------------------------------------------------------------------------------------------- arguments


class Parser(argparse.ArgumentParser):
    """Complains in one line, without the usage; no abbreviations; `--debug` in every command."""

    def __init__(self, module: ModuleType, prog: str | None = None):
        doc = module.__doc__ or ""
        layout = argparse.RawDescriptionHelpFormatter
        super().__init__(prog, description=doc, formatter_class=layout, allow_abbrev=False)
        self.add_argument("--debug", action="store_true", help="show the traceback of errors in the request as well")

    def error(self, message: str):
        raise UsageError(f"{message} (--help shows the flags)")


@dataclass(frozen=True)
class Number:
    """The `type` of a flag that takes a number from `low` to `high`; a whole one unless `fraction`.

    argparse says of any other text which flag it was given to, and what is allowed.
    """

    low: float
    high: float = math.inf
    fraction: bool = False

    def __call__(self, text: str) -> int | float:
        try:
            value = float(text) if self.fraction else int(text)
        except ValueError:
            value = math.nan
        if not (self.low <= value <= self.high and abs(value) < 2**63):
            raise argparse.ArgumentTypeError(f"{text!r} must be {self}")
        return value

    def __str__(self) -> str:
        kind = "a number" if self.fraction else "a whole number"
        return f"{kind} from {self.low} to {self.high}" if self.high < math.inf else f"{kind} of at least {self.low}"


AT_LEAST_0, AT_LEAST_1 = Number(0), Number(1)
PIXELS = Number(1, 2**16)
SHARE = Number(0, 1, fraction=True)
SEED = Number(0, 2**63 - 1)


def add_config_arguments(parser: argparse.ArgumentParser, default: str = "", metavar: str = "key=value") -> None:
    """`--config-file` as `args.config_file`, and every word that is no flag in `args.overrides`.

    The config may also be the first word, see `take_config`.

    Args:
        parser: of a command.
        default: the config without the flag; "" makes `load_config` ask for it.
        metavar: how the words show in the help.
    """
    said = f" (default: {default})" if default else ""
    parser.add_argument(
        "--config-file",
        default=default,
        metavar="FILE",
        help=f"a recipe's name or file, a run's folder or config.yaml, or a model package{said}",
    )
    parser.add_argument(
        "overrides", nargs="*", metavar=metavar, help="changes to the config, in Hydra's grammar; the last one counts"
    )


def take_config(args: argparse.Namespace) -> None:
    """Without `--config-file`, a first word that is no override becomes `args.config_file`."""
    if not args.config_file and args.overrides and not OVERRIDE.match(args.overrides[0]):
        args.config_file, *args.overrides = args.overrides


def load_config(args: argparse.Namespace):
    """The config that `add_config_arguments` asked for, complete and overridden; a UsageError says what is wrong."""
    from dinov2_detrex.config.loading import load

    take_config(args)
    return load(args.config_file, args.overrides)


def add_data_arguments(parser: argparse.ArgumentParser) -> None:
    """A data set, by its paths or as a config has it, for `load_parts`."""
    add_config_arguments(parser, metavar="PATH|key=value")
    parser.add_argument(
        "--image-root", metavar="DIR", help="where a JSON's images lie, if they are not found beside it"
    )


def add_writing_arguments(parser: argparse.ArgumentParser, forms: str, default: str | None = None) -> None:
    """The form, place and images of a data set that a command writes."""
    said = f" (default: {default})" if default else ""
    parser.add_argument("--to", required=not default, default=default, metavar="FORM", help=f"{forms}{said}")
    parser.add_argument("--output-dir", required=True, metavar="DIR", help="a new folder")
    parser.add_argument("--images", choices=("link", "copy"), default="link", help="symbolic links (default) or copies")


def load_parts(args: argparse.Namespace):
    """{part: DataSource} of what `add_data_arguments` asked for: all parts at the paths, or those of the config.

    Raises:
        UsageError: there are neither paths nor a config, or both.
    """
    paths, args.overrides = split_words(args.overrides, os.path.exists)
    if bool(paths) == bool(args.config_file):
        raise UsageError("name a data set as PATH or with --config-file FILE, one of the two")
    if args.config_file:
        from dinov2_detrex.training.datasets import configured_parts

        return configured_parts(load_config(args))
    if args.overrides:
        raise UsageError(f"{args.overrides[0]}: without --config-file FILE there is nothing to override")

    from dinov2_detrex.data.parts import parts_of

    return parts_of(paths, args.image_root)


def split_words(words: Sequence[str], is_value: Callable[[str], bool]) -> tuple[list[str], list[str]]:
    """(values, overrides) of a config in words of both kinds; what is there as a file is none of the latter."""
    values = [word for word in words if is_value(word) or not OVERRIDE.match(word)]
    return values, [word for word in words if word not in values]


# -------------------------------------------------------------------------------------------------------- commands


def _run_command(name: tuple[str, ...], words: list[str], prog: str | None = None) -> int | None:
    """Walk down the commands by `name`, then by `words`, and run the one that is found with the words that remain."""
    module = importlib.import_module(".".join((COMMANDS, *name)))
    while hasattr(module, "__path__"):
        known = subcommands(module)
        if not words or words[0] in ("-h", "--help"):
            print(_overview(module, prog or os.path.basename(sys.argv[0])))
            return 0 if words else UsageError.exit_status
        word, words = words[0], words[1:]
        if word not in known:
            listed = did_you_mean(word, known) or f"; there are {', '.join(known)}"
            raise UsageError(f"unknown command {word!r}{listed}")
        module = importlib.import_module(f"{module.__name__}.{word.replace('-', '_')}")
        prog = f"{prog or os.path.basename(sys.argv[0])} {word}"
    parser = Parser(module, prog)
    module.add_arguments(parser)
    return module.run(parser.parse_intermixed_args(words))


def subcommands(package: ModuleType) -> list[str]:
    """Names of the commands and groups of commands right below a package, in alphabetical order."""
    return [found.name.replace("_", "-") for found in pkgutil.iter_modules(package.__path__)]


def _overview(package: ModuleType, prog: str) -> str:
    """The help of a group: its docstring and a line for each command."""
    lines = []
    for name in subcommands(package):
        doc = importlib.import_module(f"{package.__name__}.{name.replace('-', '_')}").__doc__ or ""
        lines.append(f"  {name:<12} {doc.strip().splitlines()[0]}")
    usage = f"usage: {prog} COMMAND ... (COMMAND --help shows its flags)"
    return "\n".join([usage, "", (package.__doc__ or "").strip(), "", *lines])
