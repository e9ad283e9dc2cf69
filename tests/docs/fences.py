"""Which code does a page of the documentation show, and how is it run? Fenced blocks, by the comment above them.

    <!-- run -->                  the block below is run as it stands
    <!-- run: ARGUMENTS -->       with ARGUMENTS behind its last command; TINY among them stands for `TINY`
    <!-- first: COMMAND -->       is run, and not shown: it makes what a reader brings along; CHECKOUT is this one

All blocks of a page run in order in one folder, shell blocks by bash, Python blocks as programs of their own.
"""

import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
TINY = (  # what makes any recipe small enough for a test, and keeps it from the network
    "train.device=cpu train.max_iter=2 train.log_period=1 train.eval_period=0 train.checkpointer.period=0"
    " schedule.warmup_iters=0 dataloader.train.total_batch_size=2 dataloader.train.num_workers=0"
    " dataloader.test.num_workers=0 model.backbone.net.pretrained=false model.backbone.net.embed_dim=32"
    " model.backbone.net.depth=2 model.backbone.net.num_heads=2 model.embed_dim=32 model.neck.norm_layer.num_groups=4"
    " model.num_queries=10 model.select_box_nums_for_evaluation=10 model.transformer.encoder.num_layers=1"
    " model.transformer.encoder.num_heads=2 model.transformer.encoder.feedforward_dim=32"
    " model.transformer.decoder.num_layers=1"
)
_MARK = re.compile(r"^<!-- (run|first)(?:: (.*))? -->$")
_FENCE = re.compile(r"^```(\w*)$")
_DOORS = {"dinov2-detrex": "-c 'import sys; from dinov2_detrex.cli import main; sys.exit(main())'", "python": ""}


@dataclass(frozen=True)
class Block:
    """A fenced block of a page.

    Attributes:
        line: of its fence, from 1.
        language: what its fence names.
        text: what is in it.
        is_run: whether a comment above asks for that.
        added: arguments for its last command.
    """

    line: int
    language: str
    text: str
    is_run: bool = False
    added: str = ""


def expanded(arguments: str) -> str:
    """What a comment says, with its two words in capitals replaced."""
    return arguments.replace("TINY", TINY).replace("CHECKOUT", shlex.quote(str(ROOT)))


def blocks_of(page: Path) -> list[Block]:
    """All fenced blocks of a page, in order; what runs without being shown is a shell block."""
    found, mark, opened, body = [], None, None, []
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        if opened is not None and line == "```":
            run = mark is not None
            added = expanded(mark[2] or "") if mark else ""
            found.append(Block(opened[0], opened[1], "\n".join(body), run, added))
            opened, mark, body = None, None, []
        elif opened is not None:
            body.append(line)
        elif match := _FENCE.match(line):
            opened = (number, match[1])
        elif match := _MARK.match(line):
            if match[1] == "first":
                found.append(Block(number, "bash", expanded(match[2]), is_run=True))
            else:
                mark = match
        elif line.strip():
            mark = None
    return found


def pages(marked: bool = False) -> list[Path]:
    """The pages that people wrote; with `marked`, those that have something to run."""
    written = [path for path in sorted(DOCS.rglob("*.md")) if "_build" not in path.parts]
    return [path for path in written if not marked or any(block.is_run for block in blocks_of(path))]


def commands_in(block: Block) -> list[list[str]]:
    """The words of each command of a shell block; continued lines are one, what stands behind # is left out."""
    lines = block.text.replace("\\\n", " ").splitlines()
    return [words for words in (shlex.split(line, comments=True) for line in lines) if words]


def run_block(block: Block, folder: Path, environment: dict[str, str]) -> None:
    """Run a block in a folder; an AssertionError shows what it printed where it fails."""
    if block.language == "python":
        command = [sys.executable, "-c", block.text]
    else:
        command = ["bash", "-euo", "pipefail", "-c", f"{block.text.rstrip()} {block.added}"]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, f"line {block.line}:\n{block.text}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"


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
