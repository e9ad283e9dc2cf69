"""A report reads what this project, detectron2 and detrex log, and is not put off by what is missing or cut off."""

import json

import numpy as np
import pytest

from dinov2_detrex.analysis.report.charts import Chart, Line, fewer, short, svg, ticks
from dinov2_detrex.analysis.report.costs import duration, in_words, run_costs
from dinov2_detrex.analysis.report.history import read_history
from dinov2_detrex.analysis.report.page import history_charts


def run_with(folder, rows, log=""):
    (folder / "metrics.json").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"iteration": 9, "los')
    (folder / "log.txt").write_text(log)
    return folder


TIMES = {"data_time": 0.1}
DETECTRON2 = [
    {"iteration": 19, "loss_cls": 1.5, "loss_rpn_loc": 0.2, "total_loss": 1.7, "lr": 0.01, "time": 0.5} | TIMES,
    {"iteration": 39, "loss_cls": None, "loss_rpn_loc": 0.1, "total_loss": 1.0, "lr": 0.02, "time": 0.7} | TIMES,
    {"iteration": 39, "bbox/AP": 12.0, "bbox/AP-cat": 12.0, "segm/AP": 9.0, "fast_rcnn/cls_accuracy": 0.9},
]
DETREX = [{"iteration": 0, "loss_class": 3.0, "loss_class_0": 2.0, "loss_class_dn": 1.0, "loss_bbox_enc": 1.0}]
LOG = """\
[12/31 23:59:30] detectron2 INFO: Rank of current process: 0. World size: 1
[12/31 23:59:50 d2.utils.events]:  eta: 0:01:00  iter: 19  total_loss: 1.7  lr: 0.01  max_mem: 1500M
[01/01 00:00:20 d2.utils.events]:  eta: 0:00:10  iter: 39  total_loss: 1  lr: 0.02  max_mem: 1800M
no time here
[01/05 08:00:00] detectron2 INFO: Rank of current process: 0. World size: 1
[01/05 08:00:10 d2.utils.events]:  eta: 0:00:10  iter: 39  total_loss: 1  lr: 0.02  max_mem: 1700M
"""


def test_names_of_detectron2_are_grouped_and_null_is_no_number(tmp_path):
    history = read_history(run_with(tmp_path, DETECTRON2, LOG))
    assert list(history.losses()) == ["total_loss", "loss_cls", "loss_rpn_loc"]
    assert history.series["loss_cls"].iterations.tolist() == [19, 39]
    np.testing.assert_array_equal(history.series["loss_cls"].values, [1.5, np.nan])
    assert list(history.average_precisions()) == ["bbox/AP", "segm/AP"]
    assert history.series["max_mem_mb"].values.tolist() == [1500, 1800]  # the largest of an iteration
    assert history.wall_s == 50 + 10  # over New Year, without the days before the second start
    titles = [chart.title for chart in history_charts(history)]
    assert titles[:3] == ["total loss", "loss cls", "loss rpn loc"] and "peak memory" in titles


def test_losses_of_a_detr_stand_with_those_of_their_layers(tmp_path):
    losses = read_history(run_with(tmp_path, DETREX)).losses()
    assert {name: list(lines) for name, lines in losses.items()} == {
        "loss_bbox_enc": ["loss_bbox_enc"],
        "loss_class": ["loss_class", "loss_class_0", "loss_class_dn"],
    }


def test_costs_are_sums_over_all_iterations(tmp_path):
    history = read_history(run_with(tmp_path, DETECTRON2, LOG))
    (tmp_path / "model_final.pth").write_bytes(bytes(2_000_000))
    costs = run_costs(tmp_path, history, None)
    assert costs["iterations"] == 40 and costs["training_s"] == pytest.approx(20 * 0.5 + 20 * 0.7)
    assert costs["waiting_share"] == pytest.approx(4 / 24) and costs["peak_memory_mb"] == 1800
    words = dict(in_words(costs))
    assert words["model_final.pth"] == "2.0 MB" and words["time of all iterations"] == "24 s"


def test_a_folder_without_logs_has_no_history(tmp_path):
    history = read_history(tmp_path)
    assert history.series == {} and history.wall_s is None and history_charts(history) == []
    assert in_words(run_costs(tmp_path, history, None)) == []


@pytest.mark.parametrize("seconds, text", [(59, "59 s"), (600, "10 min"), (3700, "1 h 2 min")])
def test_durations_are_readable(seconds, text):
    assert duration(seconds) == text


# ---------------------------------------------------------------------------------------------------------- charts


def test_ticks_are_round_and_within_the_range():
    for low, high in [(0, 1), (0.5, 0.95), (0, 40000), (1e-5, 3e-4), (-3, 8)]:
        found = ticks(low, high)
        assert 2 <= len(found) <= 6 and low - 1e-9 <= found[0] and found[-1] <= high * (1 + 1e-9)
    assert ticks(0, 1) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    labels = {0.1 + 0.2: "0.3", 20000: "20k", 1.5e6: "1.5M", 1e-5: "1e-5", 2.5e-3: "2.5e-3", 0: "0"}
    assert {value: short(value) for value in labels} == labels


def test_peaks_stay_when_points_are_left_out():
    x, y = np.arange(5000.0), np.zeros(5000)
    y[1234], y[4321] = 7, -3
    few_x, few_y = fewer(x, y)
    assert len(few_x) <= 260 and few_y.max() == 7 and few_y.min() == -3
    assert (few_x[0], few_x[-1]) == (0, 4999) and (np.diff(few_x) > 0).all()


def test_a_line_is_interrupted_where_there_is_no_number_and_text_is_escaped():
    chart = Chart("<b>", "x & y", "", [Line("n", [0, 1, 2, 3, 4], [0, 1, np.nan, 1, 0])])
    drawn = svg(chart)
    assert drawn.count("M") == 2 and "nan" not in drawn
    assert "<b>" not in drawn and "&lt;b&gt;" in drawn and "x &amp; y" in drawn


@pytest.mark.parametrize("values", [[], [np.nan], [3.0], [2.0, 2.0], [0.0, 0.0], [1e-12, 1.0000001e-12]])
def test_any_values_can_be_drawn(values):
    assert svg(Chart("t", "x", "y", [Line("n", list(range(len(values))), values)])).startswith("<svg")
