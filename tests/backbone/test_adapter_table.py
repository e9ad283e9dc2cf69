"""The README's table of the adapter names tests that exist."""

import re

from conftest import ROOT


def test_every_test_named_in_the_table_exists():
    table = (ROOT / "projects/dino_dinov2/README.md").read_text()
    named = set(re.findall(r"\b(test_\w+?)(?:\.py)?(?=[`:])", table))
    files = {path.stem: path.read_text() for path in (ROOT / "tests/backbone").glob("test_*.py")}
    functions = {name for text in files.values() for name in re.findall(r"^def (test_\w+)\(", text, re.M)}
    assert len(named) > 50
    assert named <= functions | set(files)
