"""Is a YAML config what it looks like? Asked of its syntax, before any value is made of it, whichever engine loads it.

YAML lets a few lines stand for billions of values (anchors that repeat anchors), keeps the last of two equal keys in
silence, and has tags that call functions. A config that a run saved has none of these.
"""

import os
from pathlib import Path

import yaml

from dinov2_detrex.runtime.errors import UsageError

MAX_BYTES = 2**22
MAX_VALUES = 100_000  # with everything that anchors repeat; a saved config has about a thousand
_TAG = "tag:yaml.org,2002:"
_TAGS_OF_A_SAVED_CONFIG = ("python/name:", "python/object:", "python/tuple", "python/object/apply:pathlib.")


def check_yaml(path: str | os.PathLike) -> None:
    """Look at a YAML file.

    Raises:
        UsageError: it is too large, repeats a key or itself, or holds a tag that no config needs; names the line.
        yaml.YAMLError: it is no YAML.
        UnicodeDecodeError: it is no text.
    """
    if Path(path).stat().st_size > MAX_BYTES:
        raise UsageError(f"more than {MAX_BYTES >> 20} MiB, which is no config")
    with open(path, encoding="utf-8") as file:
        root = yaml.compose(file, Loader=yaml.SafeLoader)
    if root is not None:
        _SizeOf().node(root)


class _SizeOf:
    """Counts the values of nodes, each node once however often anchors repeat it."""

    def __init__(self):
        self._sizes: dict[int, int | None] = {}  # by identity; None while the node is being counted

    def node(self, node: yaml.Node) -> int:
        """The values in a node, those that anchors repeat included."""
        if id(node) not in self._sizes:
            self._sizes[id(node)] = None
            self._sizes[id(node)] = self._count(node)
        size = self._sizes[id(node)]
        if size is None:
            raise UsageError(f"line {_line(node)}: an anchor that contains itself")
        if size > MAX_VALUES:
            raise UsageError(f"line {_line(node)}: more than {MAX_VALUES} values, by anchors that repeat anchors")
        return size

    def _count(self, node: yaml.Node) -> int:
        _check_tag(node)
        if isinstance(node, yaml.MappingNode):
            _check_keys(node)
            return 1 + sum(self.node(inner) for pair in node.value for inner in pair)
        return 1 + sum(map(self.node, node.value)) if isinstance(node, yaml.SequenceNode) else 1


def _check_tag(node: yaml.Node) -> None:
    tag = str(node.tag).removeprefix(_TAG)
    foreign = str(node.tag).startswith("!") or tag.startswith("python/")
    if foreign and not tag.startswith(_TAGS_OF_A_SAVED_CONFIG):
        raise UsageError(f"line {_line(node)}: the tag !!{tag} is not allowed in a config")


def _check_keys(node: yaml.MappingNode) -> None:
    seen: dict[str, int] = {}
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise UsageError(f"line {_line(key)}: a key must be text")
        if key.value in seen:
            raise UsageError(f"line {_line(key)}: the key {key.value!r} stands in line {seen[key.value]} already")
        seen[key.value] = _line(key)


def _line(node: yaml.Node) -> int:
    return node.start_mark.line + 1
