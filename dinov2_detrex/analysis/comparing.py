"""Which recipe finds more? Paired runs, one of each for every seed, and the mean difference with its interval.

Two recipes are compared with each other, or a reference with each of its options. Two runs of one seed share the
data's order, so their difference varies less than either. Runs are processes of their own and end up below one folder,
`a/seed-0`, `b/seed-0`, ...; what is there is not trained again, and a run that was interrupted goes on.
"""

import json
import logging
import math
import os
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from scipy import stats
from tabulate import tabulate

from dinov2_detrex.runtime.errors import UsageError, UserError
from dinov2_detrex.runtime.files import write_json

METRICS = ("AP", "AP50", "AP75", "APs")
CONFIDENCE = 0.95
_RESULT = "result.json"
_TRAIN = "import sys; from dinov2_detrex.cli import run_command; sys.exit(run_command('train', sys.argv[1:]))"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Side:
    """One of the recipes.

    Attributes:
        name: "a", "b" or an option's, its folder.
        config_file: as of `dinov2-detrex train`.
        overrides: of its config.
    """

    name: str
    config_file: str
    overrides: Sequence[str]


@dataclass(frozen=True)
class RunResult:
    """What came of one run.

    Attributes:
        metrics: AP and its kin in percent, of the averaged weights where the run has them.
        curve: (iterations done, AP) at every evaluation.
        steps: iterations.
        step_s: median seconds of an iteration, so that a pause or a resume does not count.
    """

    metrics: Mapping[str, float]
    curve: Sequence[tuple[int, float]]
    steps: int
    step_s: float

    @property
    def minutes(self) -> float:
        """Of training."""
        return self.steps * self.step_s / 60


@dataclass(frozen=True)
class Difference:
    """B minus A over paired runs.

    Attributes:
        mean: of the differences.
        half_width: of the 95 % interval around it (Student's t); None with fewer than two pairs.
        pairs: how many.
    """

    mean: float
    half_width: float | None
    pairs: int

    @property
    def shown(self) -> str:
        """For people."""
        interval = "" if self.half_width is None else f" ± {self.half_width:.2f}"
        return f"{self.mean:+.2f}{interval}"


def compare(
    sides: Sequence[Side], seeds: Sequence[int], folder: Path, at_once: int = 1
) -> dict[str, dict[int, RunResult]]:
    """Train what is missing, seed by seed.

    Args:
        sides: A and B, or a reference and its options.
        seeds: of the runs.
        folder: of all runs.
        at_once: runs that train side by side; the first one that fails keeps others from beginning.

    Returns:
        {"a": {seed: result}, "b": ...}.

    Raises:
        UsageError: the folder holds a run of another config.
        UserError: a run failed.
    """
    results: dict[str, dict[int, RunResult]] = {side.name: {} for side in sides}
    with ThreadPoolExecutor(at_once) as pool:
        runs = {
            (side.name, seed): pool.submit(result_of, side, seed, folder / side.name / f"seed-{seed}")
            for seed in seeds
            for side in sides
        }
        try:
            for (name, seed), run in runs.items():
                results[name][seed] = run.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
    return results


def result_of(side: Side, seed: int, folder: Path) -> RunResult:
    """The result of one run, which is trained to its end if need be."""
    asked = {"config_file": side.config_file, "overrides": list(side.overrides), "seed": seed}
    noted = folder / "compared.json"
    if noted.is_file() and json.loads(noted.read_text()) != asked:
        raise UsageError(f"{folder} holds a run of another config or other overrides; choose another --output-dir")
    if not (folder / _RESULT).is_file():
        folder.mkdir(parents=True, exist_ok=True)
        write_json(noted, asked)
        _train(side, seed, folder)
        write_json(folder / _RESULT, asdict(read_result(folder)))
    return RunResult(**json.loads((folder / _RESULT).read_text()))


def _train(side: Side, seed: int, folder: Path) -> None:
    arguments = ["--config-file", side.config_file, "--resume", *side.overrides]
    arguments += [f"train.seed={seed}", f"train.output_dir={folder}"]
    logger.info("training %s", folder)
    package = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(filter(None, (package, os.environ.get("PYTHONPATH"))))
    with open(folder / "console.txt", "a") as console:
        command = [sys.executable, "-c", _TRAIN, *arguments]
        done = subprocess.run(command, env=os.environ | {"PYTHONPATH": path}, stdout=console, stderr=console)
    if done.returncode:
        lines = (folder / "console.txt").read_text().splitlines() or ["it said nothing"]
        raise UserError(f"{folder}: the run ended with status {done.returncode}: {lines[-1]}")


def read_result(folder: Path) -> RunResult:
    """What a finished run's metrics.json says.

    Raises:
        UserError: there is no evaluation in it.
    """
    path = folder / "metrics.json"
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
    prefix = "ema/bbox/" if any("ema/bbox/AP" in line for line in lines) else "bbox/"
    evaluations = [line for line in lines if f"{prefix}AP" in line]
    if not evaluations:
        raise UserError(f"{path} holds no box AP: the recipe needs dataloader.evaluator and a run that ends")
    last = evaluations[-1]
    metrics = {name: float("nan") if (value := last.get(prefix + name)) is None else value for name in METRICS}
    timed = [line for line in lines if line.get("time")]
    steps = 1 + max(line["iteration"] for line in timed or lines)  # an evaluation after the last one has its number
    curve = [
        (min(line["iteration"] + 1, steps), line[f"{prefix}AP"]) for line in evaluations
    ]  # the last: after all steps
    return RunResult(metrics, curve, steps, statistics.median(line["time"] for line in timed) if timed else math.nan)


def difference(a: Sequence[float], b: Sequence[float]) -> Difference:
    """Of paired values; pairs with a NaN, where a data set has no such objects, are left out."""
    gains = [y - x for x, y in zip(a, b, strict=True) if not math.isnan(x + y)]
    if not gains:
        return Difference(math.nan, None, 0)
    if len(gains) < 2:
        return Difference(gains[0], None, 1)
    t = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(gains) - 1))
    return Difference(statistics.fmean(gains), t * statistics.stdev(gains) / math.sqrt(len(gains)), len(gains))


def table(results: Mapping[str, Mapping[int, RunResult]]) -> str:
    """Means of both sides and their difference, then every run's AP, in Markdown."""
    a, b = ([results[name][seed] for seed in results["a"]] for name in "ab")
    rows = [_row(name, [r.metrics[name] for r in a], [r.metrics[name] for r in b]) for name in METRICS]
    rows.append(_row("steps", [r.steps for r in a], [r.steps for r in b]))
    rows.append(_row("minutes", [r.minutes for r in a], [r.minutes for r in b]))
    header = ("", "A", "B", f"B - A, mean of {len(a)} with 95 % interval")
    runs = [(seed, *(f"{results[name][seed].metrics['AP']:.2f}" for name in "ab")) for seed in results["a"]]
    return _tables((rows, header), (runs, ("seed", "A", "B")))


def table_of_options(results: Mapping[str, Mapping[int, RunResult]]) -> str:
    """A line for the first side, the reference, and one for each other with what it gains, in Markdown."""
    (reference, of_reference), *options = results.items()
    rows = [(reference, *(f"{_mean(of_reference, name):.2f}" for name in METRICS), "1")]
    for option, _ in options:
        gains = gains_of(results, option)
        rows.append((option, *(gains[name].shown for name in METRICS), f"{time_ratio(results, option):.2f}"))
    header = (f"{len(of_reference)} seeds", *METRICS, "time")
    runs = [(seed, *(f"{of[seed].metrics['AP']:.2f}" for of in results.values())) for seed in of_reference]
    return _tables((rows, header), (runs, ("seed", *results)))


def gains_of(results: Mapping[str, Mapping[int, RunResult]], option: str) -> dict[str, Difference]:
    """What an option gains over the first side, by metric."""
    reference, runs = next(iter(results.values())), results[option]
    return {
        name: difference([reference[seed].metrics[name] for seed in runs], [runs[seed].metrics[name] for seed in runs])
        for name in METRICS
    }


def time_ratio(results: Mapping[str, Mapping[int, RunResult]], option: str) -> float:
    """Minutes of an option's training to those of the first side, the median over the pairs."""
    reference, runs = next(iter(results.values())), results[option]
    return statistics.median(runs[seed].minutes / reference[seed].minutes for seed in runs)


def _tables(*tables: tuple[Sequence[Sequence], Sequence[str]]) -> str:
    return "\n\n".join(tabulate(rows, header, tablefmt="github", disable_numparse=True) for rows, header in tables)


def _mean(runs: Mapping[int, RunResult], name: str) -> float:
    return statistics.fmean(run.metrics[name] for run in runs.values())


def _row(name: str, a: Sequence[float], b: Sequence[float]) -> tuple[str, str, str, str]:
    return name, f"{statistics.fmean(a):.2f}", f"{statistics.fmean(b):.2f}", difference(a, b).shown
