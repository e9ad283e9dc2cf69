"""What do docstrings and the comments below fields say, as Markdown? Read for the reference pages."""

import ast
import inspect
import re
import textwrap
from typing import Any

_ARGUMENT = re.compile(r"^    (\*{0,2}\w[\w, *]*): (.*)$")
_SECTION = re.compile(r"^(Args|Returns|Raises|Attributes|Yields):$")


def arguments_of(documented: Any) -> dict[str, str]:
    """{argument: what is said of it} of a class or function, from the "Args" of its docstring.

    Several names before one colon share the text; continued lines are joined.
    """
    found: dict[str, str] = {}
    names, inside = [], False
    for line in inspect.cleandoc(documented.__doc__ or "").splitlines():
        if _SECTION.match(line):
            inside, names = line == "Args:", []
        elif inside and (match := _ARGUMENT.match(line)):
            names = [name.strip(" *") for name in match[1].split(",")]
            found |= dict.fromkeys(names, match[2])
        elif inside and line.startswith("        "):
            found |= {name: f"{found[name]} {line.strip()}" for name in names}
    return found


def first_sentence(text: str) -> str:
    """The first paragraph of a docstring on one line."""
    return " ".join(inspect.cleandoc(text).split("\n\n")[0].split())


def said_of_fields(section: type) -> dict[str, str]:
    """{field: the text below it} of a dataclass."""
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(section))).body
    assert isinstance(definition, ast.ClassDef)
    found: dict[str, str] = {}
    for node, following in zip(definition.body, definition.body[1:]):
        if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
            continue
        if isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant):
            found[node.target.id] = inspect.cleandoc(str(following.value.value))
    return found


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table; what would be markup in the text of a cell is escaped."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(_escaped, line)) + " |" for line in lines)


def _escaped(cell: str) -> str:
    """Bars everywhere, stars and angles outside of code."""
    parts = cell.replace("|", "\\|").split("`")
    parts[::2] = [re.sub(r"[*<]", r"\\\g<0>", text) for text in parts[::2]]
    return "`".join(parts)


def code(value: str) -> str:
    """`value` as inline code; "" stays empty."""
    return f"`{value}`" if value else ""
