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
    """A Markdown table; bars inside cells are escaped."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def code(value: str) -> str:
    """`value` as inline code; "" stays empty."""
    return f"`{value}`" if value else ""
