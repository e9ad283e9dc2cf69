"""Which code does a page of the documentation show, and how is it run? Fenced blocks, by the comments above them.

    <!-- run -->                    the block below is run as it stands
    <!-- run: ARGUMENTS -->         with ARGUMENTS behind its last command
    <!-- run train: ARGUMENTS -->   with ARGUMENTS behind its commands `dinov2-detrex train`
    <!-- serve: URL -->             it is started, and ended with the page; what comes next waits until URL answers
    <!-- file: NAME -->             it is written to a file, behind what is in that
    <!-- first: COMMAND -->         is run, and not shown: it makes what a reader brings along
    <!-- needs: PACKAGES -->        above one of these: it is left out where a package cannot be imported
    <!-- not run: REASON -->        the block below is not run

In them TINY, PLAIN, SMALL and SHAPES stand for the overrides below, CHECKOUT for this one. All blocks of a page run in
order in one folder, shell blocks by bash, Python blocks as programs of their own.
"""

import contextlib
import importlib.util
import os
import re
import shlex
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
README = ROOT / "README.md"
GENERATED = {"reference/api", "reference/commands", "reference/config", "reference/recipes", "tutorials/notebook"}
TINY = (  # what makes any recipe small enough for a test, and keeps it from the network
    "train.device=cpu train.max_iter=2 train.log_period=1 train.eval_period=0 train.checkpointer.period=0"
    " schedule.warmup_iters=0 dataloader.train.total_batch_size=2 dataloader.train.num_workers=0"
    " dataloader.test.num_workers=0 model.backbone.net.pretrained=false model.backbone.net.embed_dim=32"
    " model.backbone.net.depth=2 model.backbone.net.num_heads=2 model.embed_dim=32 model.neck.norm_layer.num_groups=4"
    " model.num_queries=10 model.select_box_nums_for_evaluation=10 model.transformer.encoder.num_layers=1"
    " model.transformer.encoder.num_heads=2 model.transformer.encoder.feedforward_dim=32"
    " model.transformer.decoder.num_layers=1"
)
PLAIN = TINY.replace(" schedule.warmup_iters=0", "")  # the same for configs without this project's own sections
SMALL = "dataloader.image.size=64"
SHAPES = " ".join(  # what puts a recipe for COCO on the generated pictures
    [
        "model.num_classes=3",
        *(
            f"dataloader.{loader}.dataset._target_=dinov2_detrex.data.coco_dataset_dicts"
            f" dataloader.{loader}.dataset.names=shapes_{part}"
            f" +dataloader.{loader}.dataset.json_file=datasets/shapes/annotations/instances_{part}.json"
            f" +dataloader.{loader}.dataset.image_root=datasets/shapes/{part}"
            for loader, part in (("train", "train"), ("test", "val"))
        ),
    ]
)
_MARK = re.compile(r"^<!-- (run|run \w+|serve|file|first|needs|not run)(?:: (.*))? -->$")
_FENCE = re.compile(r"^```(\w*)")  # of a directive, ```{include} and such, the language is ""
_COMMENT = re.compile(r"(^|\s)#.*$", re.M)
_COMMAND = re.compile(r"\bdinov2-detrex (\w+)")
_DOORS = {"dinov2-detrex": "-c 'import sys; from dinov2_detrex.cli import main; sys.exit(main())'", "python": ""}


@dataclass(frozen=True)
class Block:
    """A fenced block of a page.

    Attributes:
        line: of its fence, from 1.
        language: what its fence names.
        text: what is in it.
        marks: what the comments above it say, by what stands before their colon, with the words in capitals replaced.
    """

    line: int
    language: str
    text: str
    marks: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_run(self) -> bool:
        return any(mark.split()[0] in ("run", "serve", "file", "first") for mark in self.marks)

    @property
    def missing(self) -> list[str]:
        """The packages that it needs and that are not here."""
        return [name for name in self.marks.get("needs", "").split() if not _is_there(name)]


def _is_there(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ImportError:  # of what the slice lacks
        return False


def expanded(arguments: str) -> str:
    """What a comment says, with its words in capitals replaced."""
    words = {"TINY": TINY, "PLAIN": PLAIN, "SMALL": SMALL, "SHAPES": SHAPES, "CHECKOUT": shlex.quote(str(ROOT))}
    return re.sub("|".join(words), lambda found: words[found[0]], arguments)


def blocks_of(page: Path) -> list[Block]:
    """All fenced blocks of a page, in order; what runs without being shown is a shell block."""
    found, marks, opened, body = [], {}, None, []
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        if opened is not None and line == "```":
            found.append(Block(*opened, "\n".join(body), marks))
            opened, marks, body = None, {}, []
        elif opened is not None:
            body.append(line)
        elif match := _FENCE.match(line):
            opened = (number, match[1])
        elif match := _MARK.match(line):
            marks[match[1]] = expanded(match[2] or "")
            if match[1] == "first":
                found.append(Block(number, "bash", marks["first"], marks))
                marks = {}
        elif line.strip():
            marks = {}
    return found


def _is_generated(page: Path) -> bool:
    """Whether `make docs` wrote it; in a fresh clone it is not there."""
    name = page.relative_to(DOCS).with_suffix("").as_posix()
    return name in GENERATED or name.startswith("reference/api_")


def pages(marked: bool = False) -> list[Path]:
    """The pages that people wrote; with `marked`, those that have something to run."""
    written = [path for path in sorted(DOCS.rglob("*.md")) if "_build" not in path.parts and not _is_generated(path)]
    return [path for path in written if not marked or any(block.is_run for block in blocks_of(path))]


def commands_in(block: Block) -> list[list[str]]:
    """The words of each command of a shell block; continued lines are one, what stands behind # is left out."""
    lines = block.text.replace("\\\n", " ").splitlines()
    return [words for words in (shlex.split(line, comments=True) for line in lines) if words]


def script_of(block: Block) -> str:
    """What bash runs of a shell block: its commands, with what its marks add to them."""
    text = _COMMENT.sub("", block.text.replace("\\\n", " "))
    lines = [_with_added(line, block.marks) for line in text.splitlines() if line.strip()]
    return "\n".join(lines) + f" {block.marks.get('run', '')}"


def _with_added(line: str, marks: Mapping[str, str]) -> str:
    command = _COMMAND.search(line)
    return f"{line} {marks.get(f'run {command[1]}', '')}" if command else line


def run_page(page: Path, folder: Path, environment: dict[str, str]) -> list[str]:
    """Run a page from top to bottom; what was left out, with the packages that are missing for it."""
    with contextlib.ExitStack() as servers:
        for block in blocks_of(page):
            if block.is_run and not block.missing:
                run_block(block, folder, environment, servers)
    return [f"line {block.line} ({' '.join(block.missing)})" for block in blocks_of(page) if block.missing]


def run_block(block: Block, folder: Path, environment: dict[str, str], servers: contextlib.ExitStack) -> None:
    """Run a block in a folder; an AssertionError shows what a failing one printed. `servers` ends what it starts."""
    if "file" in block.marks:
        with (folder / block.marks["file"]).open("a", encoding="utf-8") as written:
            written.write(block.text + "\n")
    elif "serve" in block.marks:
        servers.enter_context(_serving(block, folder, environment))
    else:
        command = [sys.executable, "-c", block.text] if block.language == "python" else _bash(block)
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=900)
        assert done.returncode == 0, f"line {block.line}:\n{block.text}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"


def _bash(block: Block) -> list[str]:
    return ["bash", "-euo", "pipefail", "-c", script_of(block)]


@contextlib.contextmanager
def _serving(block: Block, folder: Path, environment: dict[str, str]):
    """The server that a block starts, from its first answer on."""
    url = block.marks["serve"]
    if _answers(url):
        pytest.skip(f"{url} is somebody else's")
    log = folder / f".line-{block.line}.log"
    with log.open("w") as said:
        server = subprocess.Popen(
            _bash(block), cwd=folder, env=environment, stdout=said, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        deadline = time.monotonic() + 300
        while not _answers(url):
            late = server.poll() is not None or time.monotonic() > deadline
            assert not late, f"line {block.line}:\n{block.text}\n{log.read_text()[-3000:]}"
            time.sleep(0.2)
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGTERM)
        server.wait(60)


def _answers(url: str) -> bool:
    try:
        urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=10).close()
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True


def reader_environment(folder: Path) -> dict[str, str]:
    """The environment of a reader who has the package installed: its commands on the path, data sets in the folder."""
    bin_folder = folder / ".bin"
    bin_folder.mkdir()
    for name, code in _DOORS.items():
        door = bin_folder / name
        door.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {code} "$@"\n')
        door.chmod(0o755)
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {
        **os.environ,
        "PATH": os.pathsep.join([str(bin_folder), os.environ["PATH"]]),
        "PYTHONPATH": os.pathsep.join(paths),
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "DETECTRON2_DATASETS": str(folder / "datasets"),
    }
