"""How near to the machine's limit is a detector? Any config at any size, batch, dtype, device, compiled or not.

The limit of a time is the arithmetic of the model over the rate of matrix products in that dtype, which is measured in
the same run. A training step counts three times the forward pass for what is trained, once for what is frozen.
"""

import contextlib
import itertools
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from detectron2.config import instantiate
from omegaconf import DictConfig
from torch import nn

from dinov2_detrex.analysis.benchmark.limits import Limits, measure_limits
from dinov2_detrex.analysis.benchmark.step import evaluation, training_step
from dinov2_detrex.analysis.benchmark.timing import as_table, best_times
from dinov2_detrex.analysis.cost import count_flops, part_of
from dinov2_detrex.config.loading import load
from dinov2_detrex.config.pretrained import without_pretrained
from dinov2_detrex.data.loader import build_train_loader
from dinov2_detrex.data.random_records import random_inputs
from dinov2_detrex.runtime.allocations import peak_bytes
from dinov2_detrex.runtime.errors import UsageError, UserError, building, one_line
from dinov2_detrex.training.precision import Precision

DTYPES = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}  # name -> of autocast
WORK = ("inference", "training step")
Row = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """What is measured: images of one size, a batch of them, in one precision, compiled or not."""

    image_hw: tuple[int, int]
    batch: int
    dtype: str
    compiled: bool = False

    def columns(self) -> Row:
        """The first columns of a row, which tell it from others."""
        height, width = self.image_hw
        return {"size": f"{height} x {width}", "batch": self.batch, "dtype": self.dtype, "compiled": self.compiled}


class Detector:
    """A config's model with its optimizer, for measuring; random weights.

    Args:
        config_file, overrides: as of `load`.
        device: where it runs.
    """

    def __init__(self, config_file: str, overrides: Sequence[str], device: torch.device):
        self.name, self.device = config_file, device
        self.cfg: DictConfig = without_pretrained(load(config_file, list(overrides)))
        with building("model"):
            self.model: nn.Module = instantiate(self.cfg.model).to(device)

    def runs(self, case: Case) -> dict[str, Callable[[], Any]]:
        """What is timed, by name; each call does it once."""
        precision, inputs = Precision(self.device, DTYPES[case.dtype]), self.inputs(case)
        model = torch.compile(self.model, dynamic=False) if case.compiled else self.model
        step = training_step(self.cfg, self.model, inputs, self.device, precision, model)
        return {"inference": evaluation(self.model, inputs, self.device, precision, model), "training step": step}

    def inputs(self, case: Case) -> list[dict]:
        """Random images with as many boxes as those of COCO have."""
        return random_inputs(case.image_hw, case.batch, len(self.cfg.model.get("pixel_mean", (0, 0, 0))))

    def flops(self, case: Case) -> dict[str, float]:
        """Arithmetic of inference and of a training step."""
        by_part = count_flops(self.model, self.inputs(case))
        trained = {part_of(name, self.model) for name, p in self.model.named_parameters() if p.requires_grad}
        forward = float(by_part.total())
        return {"inference": forward, "training step": forward + 2.0 * sum(by_part[part] for part in trained)}


def measure_case(detectors: Sequence[Detector], case: Case, limits: Limits, repeats: int) -> list[Row]:
    """A row for inference and one for training of every detector; they take turns.

    Returns:
        rows with "config", "work", `Case.columns`, "s" (of the fastest run), "images/s", "GFLOP/s", "limit : time",
        "peak, MiB" above the model, and, unless compiled, "parts": seconds by part.
    """
    device = detectors[0].device
    runs = {(i, work): run for i, own in enumerate(detectors) for work, run in own.runs(case).items()}
    for run in runs.values():
        run()  # warms up, and compiles
    named = {f"{i} {work}": run for (i, work), run in runs.items()}
    seconds = best_times(named, repeats, device)
    rows = []
    for (i, work), run in runs.items():
        flops, second = detectors[i].flops(case)[work], seconds[f"{i} {work}"]
        row: Row = {"config": detectors[i].name, "work": work, **case.columns(), "s": second}
        row |= {"images/s": case.batch / second, "GFLOP/s": flops / second / 1e9}
        row |= {"limit : time": flops / limits.flops[case.dtype] / second}
        row |= {"peak, MiB": peak_bytes(run, device) / 2**20}
        rows.append(row | ({} if case.compiled else {"parts": dict(run())}))
    return rows


def loader_rate(cfg: DictConfig, batches: int = 8) -> float | str:
    """Images a second that the config's training loader gives, after its first batch; or why it gives none."""
    try:
        loader = iter(build_train_loader(cfg.dataloader.train, seed=0))
        next(loader)
        start = time.perf_counter()
        images = sum(len(batch) for batch in itertools.islice(loader, batches))
        return images / (time.perf_counter() - start)
    except (UserError, OSError, AssertionError, KeyError) as error:
        return one_line(error)


def start_up_seconds(words: Sequence[str]) -> float:
    """Wall time of the command `dinov2-detrex WORDS` in a fresh process."""
    line = [sys.executable, "-c", "import sys; from dinov2_detrex.cli import main; sys.exit(main())", *words]
    start = time.perf_counter()
    with contextlib.suppress(subprocess.TimeoutExpired):
        subprocess.run(line, capture_output=True, timeout=120)
    return time.perf_counter() - start


def measure(
    config_files: Sequence[str], overrides: Sequence[str], cases: Sequence[Case], device: torch.device, repeats: int
) -> Row:
    """All rows of a run, and what they are compared with; as it is written to JSON.

    Args:
        config_files: the config, and another implementation's where one is wanted; the overrides are of the first.
        overrides: in Hydra's grammar.
        cases: what is measured, one after the other.
        device: where.
        repeats: the fastest run counts.
    """
    dtypes = list(dict.fromkeys(case.dtype for case in cases))
    limits = measure_limits(device, [DTYPES[name] or torch.float32 for name in dtypes], repeats)
    detectors = [Detector(name, overrides if i == 0 else (), device) for i, name in enumerate(config_files)]
    rows = [row for case in cases for row in measure_case(detectors, case, limits, repeats)]
    return {
        "limits": {"flops": limits.flops, "bytes": limits.bytes},
        "rows": rows,
        "loader, images/s": loader_rate(detectors[0].cfg),
        "start-up, s": {"--help": start_up_seconds(["--help"]), "env": start_up_seconds(["env"])},
    }


def limits_table(run: Row) -> str:
    """The machine's rates."""
    rates = [{"rate": f"matrix product, {name}", "G/s": rate / 1e9} for name, rate in run["limits"]["flops"].items()]
    return as_table([*rates, {"rate": "memory, bytes", "G/s": run["limits"]["bytes"] / 1e9}])


def times_table(run: Row, earlier: Row | None = None) -> str:
    """A row for each measurement; beside an earlier run's, what it takes of that one's time and memory.

    Where two configs were measured, the last column is the time over that of the first.
    """
    before = {identity(row): row for row in (earlier or {}).get("rows", ())}
    first = {identity(row)[1:]: row["s"] for row in reversed(run["rows"]) if row["config"] == run["rows"][0]["config"]}
    several = len({row["config"] for row in run["rows"]}) > 1
    shown = []
    for row in run["rows"]:
        columns = {name: value for name, value in row.items() if name != "parts" and (several or name != "config")}
        if old := before.get(identity(row)):
            columns |= {"s : earlier": row["s"] / old["s"], "peak : earlier": row["peak, MiB"] / old["peak, MiB"]}
        elif before:
            columns |= {"s : earlier": None, "peak : earlier": None}
        shown.append(columns | ({"s : first": row["s"] / first[identity(row)[1:]]} if several else {}))
    return as_table(shown)


def identity(row: Row) -> tuple:
    """What a measurement is of; the same in two runs."""
    return tuple(row[name] for name in ("config", "work", "size", "batch", "dtype", "compiled"))


def parts_table(run: Row) -> str:
    """Shares of the parts in percent, a column for each measurement that has them."""
    measured = [row for row in run["rows"] if row.get("parts")]
    several = len({row["config"] for row in measured}) > 1
    parts = list(dict.fromkeys(part for row in measured for part in row["parts"]))
    shown = []
    for part in parts:
        shares = {
            title(row, several): 100 * row["parts"].get(part, 0.0) / sum(row["parts"].values()) for row in measured
        }
        shown.append({"share, %": part, **shares})
    return as_table(shown)


def title(row: Row, with_config: bool = False) -> str:
    """A measurement in few words."""
    config = f"{row['config']}, " if with_config else ""
    return f"{config}{row['work']}, {row['batch']} x {row['size']}, {row['dtype']}"


def report(run: Row, earlier: Row | None = None) -> str:
    """All tables of a run, in Markdown."""
    loader, start = run["loader, images/s"], run["start-up, s"]
    rate = f"{loader:.3g} images/s" if isinstance(loader, float) else f"not measured ({loader})"
    last = f"loader: {rate}; start-up: --help {start['--help']:.2f} s, env (imports torch) {start['env']:.2f} s"
    return "\n\n".join((limits_table(run), times_table(run, earlier), parts_table(run), last))


def read_run(path: str) -> Row:
    """A run that was written with `--json`.

    Raises:
        UsageError: there is no such file, or it is something else.
    """
    try:
        run = json.loads(Path(path).read_text(encoding="utf-8"))
        rows = run["rows"]
        all(map(identity, rows))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"--compare {path}: is no run written by --json ({one_line(error)})") from error
    return run
