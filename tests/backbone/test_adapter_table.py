"""The documentation's table of the adapter names tests that exist."""

import re

from conftest import ROOT


def test_every_test_named_in_the_table_exists():
    table = (ROOT / "docs/concepts/promises.md").read_text()
    named = set(re.findall(r"\b(test_\w+?)(?:\.py)?(?=[`:])", table))
    files = list((ROOT / "tests").rglob("test_*.py"))
    functions = {name for path in files for name in re.findall(r"^def (test_\w+)\(", path.read_text(), re.M)}
    assert len(named) > 50
    assert named <= functions | {path.stem for path in files}
