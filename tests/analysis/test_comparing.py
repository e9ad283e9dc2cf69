"""Paired runs are compared as a textbook does, trained once, and continued where they were interrupted."""

import argparse
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from dinov2_detrex import cli
from dinov2_detrex.analysis import comparing
from dinov2_detrex.analysis.comparing import RunResult, Side, difference, read_result, table, table_of_options
from dinov2_detrex.analysis.comparison_figure import draw_gains
from dinov2_detrex.commands import compare
from dinov2_detrex.data import generate_shapes
from dinov2_detrex.runtime.errors import UserError

CONFIG = Path(__file__).resolve().parents[1] / "training" / "tiny_config.py"


def test_the_interval_is_that_of_a_paired_t_test():
    a, b = [50.0, 52.0, 49.0, 55.0], [53.0, 53.5, 54.0, 56.0]
    found = difference(a, b)
    wanted = stats.ttest_rel(b, a).confidence_interval(0.95)
    assert (found.mean - found.half_width, found.mean + found.half_width) == pytest.approx((wanted.low, wanted.high))
    assert found.pairs == 4 and found.shown.startswith("+2.62 ± ")


def test_one_pair_has_no_interval_and_a_missing_value_no_pair():
    assert difference([50.0], [51.0]).half_width is None
    assert difference([50.0, math.nan, 40.0], [51.0, 3.0, 42.0]).pairs == 2
    assert math.isnan(difference([math.nan], [1.0]).mean)


def result(ap):
    return RunResult({"AP": ap, "AP50": 2 * ap, "AP75": ap, "APs": math.nan}, [(5, ap / 2), (10, ap)], 10, 0.6)


def cells_of(table):
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines() if line]


def test_the_table_tells_means_difference_and_every_run():
    text = table({"a": {0: result(20.0), 1: result(22.0)}, "b": {0: result(25.0), 1: result(26.0)}})
    cells = cells_of(text)
    assert ["AP", "21.00", "25.50", "+4.50 ± 6.35"] in cells and ["minutes", "0.10", "0.10", "+0.00 ± 0.00"] in cells
    assert ["0", "20.00", "25.00"] in cells and ["1", "22.00", "26.00"] in cells


def test_the_table_of_options_tells_what_each_gains_over_the_reference():
    runs = {"a": {0: result(20.0), 1: result(22.0)}, "more": {0: result(25.0), 1: result(26.0)}, "b": {}}
    runs["b"] = {seed: replace(run, step_s=0.9) for seed, run in runs["a"].items()}
    cells = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in table_of_options(runs).splitlines() if line
    ]
    assert ["a", "21.00", "42.00", "21.00", "nan", "1"] in cells
    assert ["more", "+4.50 ± 6.35", "+9.00 ± 12.71", "+4.50 ± 6.35", "+nan", "1.00"] in cells
    assert ["b", "+0.00 ± 0.00", "+0.00 ± 0.00", "+0.00 ± 0.00", "+nan", "1.50"] in cells
    assert ["1", "22.00", "26.00", "22.00"] in cells


def test_the_figure_of_gains_shows_every_pair(tmp_path):
    runs = {"a": {0: result(20.0), 1: result(22.0)}, "more": {0: result(25.0), 1: result(26.0)}}
    draw_gains(runs, tmp_path / "gains.png")
    shown = np.asarray(Image.open(tmp_path / "gains.png").convert("RGB")).astype(int)
    columns = sorted(set((abs(shown - (255, 127, 14)).sum(axis=2) < 30).nonzero()[1]))  # tab:orange, the ticks of pairs
    assert 1 + sum(np.diff(columns) > 5) == 2


def test_the_evaluation_after_the_last_step_counts_as_none(tmp_path):
    lines = [{"iteration": 4, "time": 0.5}, {"iteration": 9, "time": 0.7}, {"iteration": 10, "bbox/AP": 20.0}]
    (tmp_path / "metrics.json").write_text("\n".join(map(json.dumps, lines)))
    found = read_result(tmp_path)
    assert (found.steps, found.curve) == (10, [(10, 20.0)]) and found.step_s == pytest.approx(0.6)


def test_the_averaged_weights_count_where_there_are_any(tmp_path):
    lines = [{"iteration": 4, "bbox/AP": 10.0, "time": 0.5}, {"iteration": 9, "bbox/AP": 20.0, "time": 0.7}]
    (tmp_path / "metrics.json").write_text("\n".join(map(json.dumps, lines)))
    plain = read_result(tmp_path)
    assert (plain.metrics["AP"], plain.curve, plain.steps, plain.step_s) == (20.0, [(5, 10.0), (10, 20.0)], 10, 0.6)
    (tmp_path / "metrics.json").write_text(json.dumps(lines[0] | {"ema/bbox/AP": 30.0}))
    assert read_result(tmp_path).metrics["AP"] == 30.0
    (tmp_path / "metrics.json").write_text(json.dumps({"iteration": 4}))
    with pytest.raises(UserError, match="no box AP"):
        read_result(tmp_path)


@pytest.mark.parametrize(
    "texts, seeds", [(["0..2"], [0, 1, 2]), (["3", "0..1", "3"], [0, 1, 3]), (["5..4"], None), (["-1"], None)]
)
def test_seeds_are_numbers_or_ranges(texts, seeds):
    if seeds is None:
        with pytest.raises(UserError, match="--seeds"):
            compare._seeds(texts)
    else:
        assert compare._seeds(texts) == seeds


@pytest.mark.parametrize("words", [[str(CONFIG)], [str(CONFIG)] * 3, ["train.max_iter=3"]])
def test_other_than_two_recipes_are_refused(words, capsys):
    assert cli.run_command("compare", words) == 2
    assert "two recipes are compared" in capsys.readouterr().err


def test_options_are_the_reference_with_changes_or_another_recipe():
    words = [str(CONFIG), "train.max_iter=4", "--option", "lr", "optimizer.lr=0.002", "--option", "other", "b.py"]
    parser = argparse.ArgumentParser()
    compare.add_arguments(parser)
    assert compare._options([str(CONFIG)], ["train.max_iter=4"], parser.parse_args(words)) == [
        ("a", str(CONFIG), ["train.max_iter=4"]),
        ("lr", str(CONFIG), ["train.max_iter=4", "optimizer.lr=0.002"]),
        ("other", "b.py", ["train.max_iter=4"]),
    ]


@pytest.mark.parametrize(
    "words, said",
    [
        (["--option", "a", "optimizer.lr=1"], "the names a are taken"),
        (["--option", "a/b", "optimizer.lr=1"], "expected is a name"),
        (["--option", "alone"], "expected is a name"),
        (["--option", "two", "one.py", "two.py"], "expected is a name"),
        (["--option", "x", "optimizer.lr=1", "--with-b", "optimizer.lr=2"], "no --with-a or --with-b"),
        (["--option", "x", "optimizer.lr=1", "--at-once", "0"], "--at-once: '0' must be a whole number of at least 1"),
        (["--option", "x", "optimizer.rate=1"], "unknown key 'optimizer.rate'"),
    ],
)
def test_options_that_are_none_are_refused_before_anything_trains(words, said, tmp_path, capsys):
    assert cli.run_command("compare", [str(CONFIG), *words, "--output-dir", str(tmp_path / "runs")]) == 2
    assert said in capsys.readouterr().err and not (tmp_path / "runs").exists()


def test_runs_side_by_side_end_with_the_first_that_fails(tmp_path, monkeypatch):
    begun = []

    def train(side, seed, folder):
        begun.append((side.name, seed))
        raise UserError(f"{side.name} failed")

    monkeypatch.setattr(comparing, "_train", train)
    with pytest.raises(UserError, match="a failed"):
        comparing.compare([Side(name, "recipe", ()) for name in "abcdefgh"], range(20), tmp_path, at_once=2)
    assert len(begun) < 100


@pytest.mark.slow
def test_a_comparison_trains_what_is_missing_and_a_second_call_nothing(tmp_path, tmp_path_factory, monkeypatch):
    shapes = generate_shapes(tmp_path_factory.mktemp("data") / "shapes", num_train=14, num_val=5, image_size=48)
    monkeypatch.setenv("TINY_SHAPES", str(shapes))
    monkeypatch.setenv("PYTHONPATH", str(CONFIG.parent))
    monkeypatch.syspath_prepend(str(CONFIG.parent))
    words = [str(CONFIG), str(CONFIG), "train.max_iter=4", "train.eval_period=2", "--with-b", "optimizer.lr=0.002"]
    words += ["--seeds", "0..1", "--output-dir", str(tmp_path)]
    assert cli.run_command("compare", words) == 0
    files = {path.name for path in tmp_path.iterdir()}
    assert {"a", "b", "comparison.md", "comparison.json", "comparison.png"} == files
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.pth")}
    assert len(before) >= 4
    monkeypatch.setattr(comparing, "_TRAIN", "raise SystemExit('nothing is to be trained')")
    assert cli.run_command("compare", words) == 0
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.pth")} == before


def test_a_folder_of_another_comparison_is_left_alone(tmp_path):
    (tmp_path / "compared.json").write_text(json.dumps({"config_file": "other", "overrides": [], "seed": 0}))
    with pytest.raises(UserError, match="another --output-dir"):
        comparing.result_of(Side("a", "recipe", ()), 0, tmp_path)


def test_a_run_that_fails_is_one_line_with_its_last_words(tmp_path, monkeypatch):
    monkeypatch.setattr(comparing, "_TRAIN", "raise SystemExit('error: the disk is full')")
    with pytest.raises(UserError, match=r"status 1: error: the disk is full"):
        comparing.result_of(Side("a", "recipe", ()), 0, tmp_path / "run")
