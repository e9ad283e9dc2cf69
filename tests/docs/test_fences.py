"""The runner of the documentation's blocks finds what is marked, in order, and fails where a block does."""

import contextlib
import socket
import urllib.request

import pytest
from fences import TINY, blocks_of, commands_in, reader_environment, run_block, run_page, script_of

PAGE = """\
# A page

```{include} another.md
```

<!-- first: echo 1 > one -->
<!-- run: two -->
```bash
cat \\
    one
cp one  # a copy
```

A mark does not reach over text.

```bash
false  # never run
```

<!-- needs: os no_such_package -->
<!-- run: TINY -->
```python
raise SystemExit("wrong")
```

<!-- not run: false has nothing to show -->
```bash
false
```

<!-- file: three.py -->
```python
print("3")
```

<!-- run data: --seed 1 -->
```bash
python three.py > three
echo dinov2-detrex data shapes > four  # as it is
echo dinov2-detrex report > five
```
"""
SERVER = """\
<!-- serve: http://127.0.0.1:{port}/ -->
```bash
python -m http.server {port} --bind 127.0.0.1
```
"""


def blocks_in(folder, text):
    page = folder / "page.md"
    page.write_text(text)
    return blocks_of(page)


@pytest.fixture
def blocks(tmp_path):
    return blocks_in(tmp_path, PAGE)


@pytest.fixture
def environment(tmp_path):
    return reader_environment(tmp_path)


@pytest.fixture
def run(tmp_path, environment):
    """Runs a block in the test's folder; what it starts ends with the test."""
    with contextlib.ExitStack() as servers:
        yield lambda block: run_block(block, tmp_path, environment, servers)


@pytest.fixture
def free_port():
    with socket.socket() as asked:
        asked.bind(("127.0.0.1", 0))
        return asked.getsockname()[1]


def test_marked_blocks_are_found_in_order_with_what_their_marks_say(blocks):
    assert (blocks[0].language, blocks[0].text, blocks[0].is_run) == ("", "", False)
    assert [(block.language, block.is_run, block.marks) for block in blocks[1:]] == [
        ("bash", True, {"first": "echo 1 > one"}),
        ("bash", True, {"run": "two"}),
        ("bash", False, {}),
        ("python", True, {"needs": "os no_such_package", "run": TINY}),
        ("bash", False, {"not run": "false has nothing to show"}),
        ("python", True, {"file": "three.py"}),
        ("bash", True, {"run data": "--seed 1"}),
    ]
    assert blocks[2].line == 8


def test_what_is_added_goes_behind_the_last_command(blocks, run, tmp_path):
    for block in blocks[1:3]:
        run(block)
    assert (tmp_path / "two").read_text() == "1\n"


def test_what_is_added_for_a_command_goes_behind_it_and_before_its_comment(blocks):
    lines = [line.split() for line in script_of(blocks[7]).splitlines()]
    assert lines[1] == "echo dinov2-detrex data shapes > four --seed 1".split()
    assert lines[2] == "echo dinov2-detrex report > five".split()


def test_a_block_that_is_a_file_is_there_for_the_next(blocks, run, tmp_path):
    run(blocks[6])
    run(blocks[7])
    assert (tmp_path / "three").read_text() == "3\n" and (tmp_path / "four").read_text().endswith("--seed 1\n")


def test_a_block_that_fails_fails_with_its_line_and_what_it_said(blocks, run):
    with pytest.raises(AssertionError, match=r"line 22:(?s:.*)wrong"):
        run(blocks[4])


def test_a_page_runs_from_top_to_bottom_but_for_what_lacks_a_package(blocks, tmp_path, environment):
    assert run_page(tmp_path / "page.md", tmp_path, environment) == ["line 22 (no_such_package)"]
    assert (tmp_path / "two").read_text() == "1\n" and (tmp_path / "three").read_text() == "3\n"


def test_a_server_answers_from_the_next_block_on_and_ends_with_the_page(tmp_path, run, free_port):
    (block,) = blocks_in(tmp_path, SERVER.format(port=free_port))
    run(block)
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(block.marks["serve"]) as answer:
        assert answer.status == 200


def test_a_server_that_does_not_start_fails_with_what_it_said(tmp_path, run, free_port):
    (block,) = blocks_in(tmp_path, SERVER.replace("-m http.server", "-c 'exit(\"no port\")'").format(port=free_port))
    with pytest.raises(AssertionError, match=r"line 2:(?s:.*)no port"):
        run(block)


def test_commands_are_read_as_a_shell_reads_them(blocks):
    assert commands_in(blocks[2]) == [["cat", "one"], ["cp", "one"]]
    assert commands_in(blocks[3]) == [["false"]]
