"""The runner of the documentation's blocks finds what is marked, in order, and fails where a block does."""

import os

import pytest
from fences import TINY, blocks_of, commands_in, run_block

PAGE = """\
# A page

<!-- first: echo 1 > one -->
<!-- run: two -->
```bash
cat \\
    one
cp one
```

A mark does not reach over text.

```bash
false  # never run
```

<!-- run: TINY -->
```python
raise SystemExit("wrong")
```
"""


@pytest.fixture
def blocks(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    return blocks_of(page)


def test_marked_blocks_are_found_in_order_with_what_is_added(blocks):
    assert [(block.language, block.is_run, block.added) for block in blocks] == [
        ("bash", True, ""),
        ("bash", True, "two"),
        ("bash", False, ""),
        ("python", True, TINY),
    ]
    assert blocks[1].line == 5


def test_what_is_added_goes_behind_the_last_command(blocks, tmp_path):
    for block in blocks[:2]:
        run_block(block, tmp_path, dict(os.environ))
    assert (tmp_path / "two").read_text() == "1\n"


def test_a_block_that_fails_fails_with_its_line_and_what_it_said(blocks, tmp_path):
    with pytest.raises(AssertionError, match=r"line 18:(?s:.*)wrong"):
        run_block(blocks[3], tmp_path, dict(os.environ))


def test_commands_are_read_as_a_shell_reads_them(blocks):
    assert commands_in(blocks[1]) == [["cat", "one"], ["cp", "one"]]
    assert commands_in(blocks[2]) == [["false"]]
