"""How does AP grow in the runs of two recipes, and what does each option gain? (matplotlib, from the extra `plot`)"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dinov2_detrex.analysis.comparing import RunResult, gains_of
from dinov2_detrex.visualization.figures import new_figure, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = {"a": "tab:blue", "b": "tab:orange"}


def draw(results: Mapping[str, Mapping[int, RunResult]], names: Mapping[str, str], path: Path) -> None:
    """Save the figure: lines are means over the seeds, bands reach from the worst to the best.

    Args:
        results: {"a": {seed: result}, "b": ...}.
        names: of the recipes, by side.
        path: where the figure goes.

    Raises:
        MissingPackageError: without matplotlib.
    """
    figure = new_figure((11, 4.2))
    over_steps, over_minutes = figure.subplots(1, 2)
    for side, runs in results.items():
        _draw_curve(over_steps, list(runs.values()), 1.0, names[side], COLOURS[side])
        minutes = float(np.median([run.step_s for run in runs.values()])) / 60
        _draw_curve(over_minutes, list(runs.values()), minutes, names[side], COLOURS[side])
    over_steps.set(xlabel="steps", ylabel="AP")
    over_minutes.set(xlabel="minutes of training", ylabel="AP")
    over_steps.legend()
    save_figure(figure, path)


def draw_gains(results: Mapping[str, Mapping[int, RunResult]], path: Path) -> None:
    """Save a figure of what every option gains in AP over the first side: its pairs, their mean and 95 % interval.

    Args:
        results: {"a": {seed: result}, option: ...}.
        path: where the figure goes.

    Raises:
        MissingPackageError: without matplotlib.
    """
    reference, *options = results
    figure = new_figure((8, 1.4 + 0.32 * len(options)))
    panel = figure.subplots()
    for place, option in enumerate(options):
        gain = gains_of(results, option)["AP"]
        pairs = [results[option][seed].metrics["AP"] - run.metrics["AP"] for seed, run in results[reference].items()]
        panel.errorbar(gain.mean, place, xerr=gain.half_width, fmt="o", color=COLOURS["a"], capsize=3)
        panel.plot(pairs, [place] * len(pairs), "|", color=COLOURS["b"], markersize=9)
    panel.axvline(0, color="grey", linewidth=1)
    panel.set(xlabel="gain in AP: pairs, mean and 95 % interval", yticks=range(len(options)), yticklabels=options)
    panel.invert_yaxis()
    save_figure(figure, path)


def _draw_curve(panel: "Axes", runs: list[RunResult], unit: float, name: str, colour: str) -> None:
    """Evaluations that all runs have."""
    steps = sorted(set.intersection(*({step for step, _ in run.curve} for run in runs)))
    values = np.array([[dict(run.curve)[step] for step in steps] for run in runs])
    places = np.array(steps) * unit
    panel.plot(places, values.mean(axis=0), marker="o", label=name, color=colour)
    panel.fill_between(places, values.min(axis=0), values.max(axis=0), alpha=0.2, color=colour)
