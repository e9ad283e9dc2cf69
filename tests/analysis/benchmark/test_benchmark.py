"""The measurements measure: arithmetic as worked out by hand, memory that is there, differences that were made."""

import pytest
import torch
from torch import nn

from dinov2_detrex.analysis.benchmark import deformable, groups, losses, memory, step, timing, windows

CPU = torch.device("cpu")


# ---- windows and memory


def test_attention_arithmetic_is_that_of_the_windows():
    """test_vit: 2 heads of 32 in width 64, one class token; two products of 2 * N * N * 64 operations each."""
    (row,) = windows.window_rows([100], depth=1, window_size=2, repeats=1, model_name="test_vit", device=CPU)
    assert (row["image"], row["grid"]) == (100, "7x7")
    assert row["global: attention GFLOP a block"] == pytest.approx(4 * (49 + 1) ** 2 * 64 / 1e9)
    in_windows, tokens = 4 * 4, 2 * 2 + 1
    assert row["windowed: attention GFLOP a block"] == pytest.approx(in_windows * 4 * tokens**2 * 64 / 1e9)
    times = row["windowed: ms a block"], row["global: ms a block"]
    assert min(times) > 0 and row["time, windowed : global"] == pytest.approx(times[0] / times[1])


class Hoarder(nn.Module):
    """A model whose step holds about so many MiB."""

    def __init__(self, mib: int):
        super().__init__()
        self.weight, self.mib = nn.Parameter(torch.ones(1)), mib

    def forward(self, inputs):
        held = torch.zeros(self.mib * 2**18) * self.weight
        return {"loss": held.square().sum()}


def build_hoarder(settings: dict):
    return Hoarder(settings["mib"]), []


@pytest.mark.slow
def test_peak_memory_grows_with_what_a_step_holds():
    small, large = memory.memory_rows(build_hoarder, {"small": {"mib": 20}, "large": {"mib": 220}}, CPU)
    assert (small["backbone"], large["backbone"]) == ("small", "large")
    assert large["peak above the model, MiB"] - small["peak above the model, MiB"] > 300


def test_detector_whose_memory_is_measured_has_the_settings_of_its_variant():
    model, (record,) = memory.build_detector({"model_name": "test_vit", "depth": 1, "freeze": True})
    assert not any(p.requires_grad for p in model.backbone.net.parameters())
    assert model.transformer.level_embeds.requires_grad
    assert record["image"].shape == (3, 592, 592) and len(record["instances"]) == 3


def test_detectors_with_groups_and_layers_have_those_of_their_variant():
    grouped, _ = groups.build_detector(groups.VARIANTS["4 groups of 300 queries"])
    layered, _ = groups.build_detector(groups.VARIANTS["4 layers in the pyramid"])
    assert grouped.transformer.group_embed.weight.shape == (1200, 256) and grouped.backbone.fusion is None
    assert layered.transformer.group_embed is None and len(layered.backbone.fusion.norms) == 4


# ---- timing


def test_runs_take_turns_and_the_fastest_counts(monkeypatch):
    order, durations, moment = [], iter([5, 50, 3, 40, 4, 60]), [0]

    def run(name):
        order.append(name)
        moment[0] += next(durations)

    monkeypatch.setattr(timing, "now", lambda device: moment[0])
    best = timing.best_times({"a": lambda: run("a"), "b": lambda: run("b")}, repeats=3, device=CPU)
    assert order == ["a", "b"] * 3 and best == {"a": 3, "b": 40}


def test_no_runs_are_an_error():
    with pytest.raises(ValueError, match="repeats=0"):
        timing.best_times({"a": list}, repeats=0, device=CPU)
    with pytest.raises(ValueError, match="repeats=0"):
        step.part_rows(list, repeats=0, device=CPU)


# ---- deformable attention

CASE = deformable.Case("small", ((5, 7), (3, 4)), num_images=2, num_heads=3, width=5, num_points=2)


def test_forms_of_deformable_attention_are_measured_and_hardly_differ():
    rows = deformable.form_rows(CASE, repeats=1, device=CPU)
    forms = [row["form"] for row in rows]
    assert forms == ["grid_sample", "in pieces, backward in closed form", "embedding_bag, torch's backward", "gather"]
    for row in rows:
        assert row["difference: output"] < 1e-5 and row["gradients"] < 1e-5
        assert row["forward : grid_sample"] == pytest.approx(row["forward, ms"] / rows[0]["forward, ms"])


def test_form_that_is_wrong_shows_in_its_difference(monkeypatch):
    right = deformable.weighted_rows.sum_rows_gather
    monkeypatch.setattr(deformable.weighted_rows, "sum_rows_gather", lambda *inputs: 1.5 * right(*inputs))
    row = deformable.form_rows(CASE, repeats=1, device=CPU)[-1]
    assert row["difference: output"] == pytest.approx(0.5, abs=1e-4)
    assert row["gradients"] == pytest.approx(0.5, abs=1e-4)


def test_no_point_is_sampled_where_the_gradient_jumps():
    _, locations, weights = deformable.random_inputs(CASE, CPU)
    sizes_wh = torch.tensor([(w, h) for h, w in CASE.shapes_hw])[:, None]
    cells = locations * sizes_wh - 0.5
    assert (cells - cells.round()).abs().min() > 0.009
    torch.testing.assert_close(weights.sum((-1, -2)), torch.ones(2, CASE.num_cells, 3))


def test_deformable_report_names_the_sizes():
    text = deformable.report(CPU, repeats=1, cases=[CASE])
    assert text.startswith("small: 2 x 47 queries, 3 heads of 5, 2 levels, 2 points\n") and "grid_sample" in text


# ---- losses

SMALL_LOSSES = losses.Case(num_layers=3, num_queries=9, boxes_per_image=(2, 0, 3), num_classes=4, num_groups=2)


def test_losses_at_once_are_those_of_the_loop():
    loop, batched = losses.loss_rows(SMALL_LOSSES, repeats=1, device=CPU)
    assert (loop["largest difference"], batched["losses"]) == (0.0, "all layers at once")
    assert batched["largest difference"] < 1e-5
    assert batched["both : loop"] == pytest.approx(batched["forward + backward, ms"] / loop["forward + backward, ms"])


def test_losses_that_are_wrong_show_in_the_difference(monkeypatch):
    right = losses.denoising_pairs
    monkeypatch.setattr(losses, "denoising_pairs", lambda *x: [(query, target.flip(0)) for query, target in right(*x)])
    assert losses.loss_rows(SMALL_LOSSES, repeats=1, device=CPU)[1]["largest difference"] > 1e-3


# ---- a step by part


class Slow(nn.Module):
    """Takes so many units of the clock before and after its children, which work one after the other."""

    def __init__(self, clock: list, units: int, **children: nn.Module):
        super().__init__()
        self.clock, self.units = clock, units
        for name, child in children.items():
            self.add_module(name, child)

    def forward(self):
        self.clock[0] += self.units
        for child in self.children():
            child()
        self.clock[0] += self.units


def test_time_goes_to_the_innermost_part(monkeypatch):
    moment = [0]
    monkeypatch.setattr(step, "now", lambda device: moment[0])
    decoder = Slow(moment, 1000, layer=Slow(moment, 10_000))
    model = Slow(moment, 1, neck=Slow(moment, 10), transformer=Slow(moment, 100, decoder=decoder))
    with step.PartClock(model, CPU) as clock:
        model()
    clock.measure("backward", model.neck)
    assert clock.seconds == {"rest": 2, "neck": 20, "query selection": 200, "decoder": 22_000, "backward": 20}
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_parts_of_the_fastest_run_are_reported_and_add_up():
    runs = iter(
        [
            {"neck": 9, "backward": 9},
            {"neck": 3, "backward": 4},
            {"neck": 1, "backward": 3},
            {"neck": 0.5, "backward": 9},
        ]
    )
    rows = step.part_rows(lambda: step.Counter(next(runs)), repeats=3, device=CPU)
    assert [(row["part"], row["ms"], row["share, %"]) for row in rows] == [
        ("neck", 1000, 25),
        ("backward", 3000, 75),
        ("total", 4000, 100),
    ]
