"""How do benchmarks/RESULTS.md's tables follow from its commands? Run the command of a section, put in what it prints.

A section is a heading with an indented line `python tools/benchmark.py NAME ...` below it. Its tables are replaced one
for one by those that the command prints; its words stay, and want reading afterwards. Where the command fails, or
prints another number of tables, the section stays as it is.
"""

import re
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass

COMMAND = re.compile(r"^    python tools/benchmark\.py (?P<words>[a-z]+( .*)?)$", re.MULTILINE)
TABLE = re.compile(r"(?:^\|.*\|\n)+", re.MULTILINE)
SECTION = re.compile(r"^(?=## )", re.MULTILINE)


@dataclass(frozen=True)
class Section:
    """A part of the document, with its heading."""

    text: str

    @property
    def name(self) -> str:
        """The heading; "" before the first."""
        return self.text.partition("\n")[0].removeprefix("## ") if self.text.startswith("## ") else ""

    @property
    def words(self) -> list[str] | None:
        """Arguments of its command; None where it has none."""
        found = COMMAND.search(self.text) if self.name else None
        return shlex.split(found["words"]) if found else None

    def with_tables(self, output: str) -> str | None:
        """The text with the tables of `output`; None where there are not as many as before (or some for none)."""
        tables, old = TABLE.findall(output + "\n"), TABLE.findall(self.text)
        if not tables or len(old) not in (0, len(tables)):
            return None
        if not old:
            return self.text.rstrip("\n") + "\n\n" + "\n".join(tables) + "\n"
        remaining = iter(tables)
        return TABLE.sub(lambda match: next(remaining), self.text)


def sections_of(document: str) -> list[Section]:
    """The document in parts, which joined are it again."""
    return [Section(text) for text in SECTION.split(document)]


def renewed(
    document: str,
    run: Callable[[list[str]], str | None],
    only: Sequence[str] = (),
    say: Callable[[str], object] = print,
) -> str:
    """The document with the tables of its commands' output.

    Args:
        document: as in benchmarks/RESULTS.md.
        run: arguments of `tools/benchmark.py` -> what it prints; None where it failed.
        only: names of benchmarks, e.g. "losses"; none stands for all.
        say: is told what became of each section.
    """
    parts = []
    for section in sections_of(document):
        text, words = section.text, section.words
        if words and (not only or words[0] in only):
            output = run(words)
            new = None if output is None else section.with_tables(output)
            reason = "its command failed" if output is None else "its command prints another number of tables"
            say(f"{section.name}: {'measured' if new else f'left as it was, {reason}'}")
            text = new or text
        parts.append(text)
    return "".join(parts)
