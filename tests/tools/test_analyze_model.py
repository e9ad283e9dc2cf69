"""tools/analyze_model.py: parameters, arithmetic and kept activations are what one counts by hand, part by part."""

import subprocess
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from tiny_dino import tiny_backbone, tiny_dino
from torch import nn

from dinov2_detrex.analysis.cost import count_flops, count_parameters, random_inputs, saved_activations
from dinov2_detrex.backbone.adapters import LowRank
from dinov2_detrex.cli import run_command
from dinov2_detrex.config.pretrained import without_pretrained
from dinov2_detrex.training.precision import Precision

ROOT = Path(__file__).resolve().parents[2]
FLOAT = 4  # bytes


class SmallBackbone(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Conv2d(3, 8, 4, stride=4).requires_grad_(False)
        self.lateral = nn.Conv2d(8, 5, 1, bias=False)

    def forward(self, x):
        return self.lateral(self.net(x))


class CountableDetector(nn.Module):
    """Two images of 8 x 12 pixels give 2 x 3 cells each; every number of it can be counted by hand."""

    def __init__(self):
        super().__init__()
        self.backbone = SmallBackbone()
        self.neck = nn.Sequential(nn.Linear(5, 6), nn.ReLU())
        self.class_embed = nn.ModuleList([nn.Linear(6, 7)])
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, records):
        images = torch.stack([record["image"].float() for record in records])
        cells = self.neck(self.backbone(images).flatten(2).transpose(1, 2))
        return {"loss": (self.scale * self.class_embed[0](cells)).sum()}


@pytest.fixture
def countable():
    return CountableDetector(), random_inputs((8, 12), batch=2, channels=3)


CELLS = 2 * 2 * 3  # two images


def test_parameters_are_counted_by_part_trained_and_frozen(countable):
    trained, frozen = count_parameters(countable[0])
    assert frozen == {"backbone net": 3 * 4 * 4 * 8 + 8}
    assert trained == {"pyramid": 8 * 5, "neck": 5 * 6 + 6, "heads": 6 * 7 + 7, "rest": 1}


def test_flops_are_two_for_every_multiply_add_of_a_part(countable):
    expected = {"backbone net": 3 * 4 * 4 * 8, "pyramid": 8 * 5, "neck": 5 * 6, "heads": 6 * 7}
    assert count_flops(*countable) == {part: 2 * CELLS * macs for part, macs in expected.items()}


def test_kept_is_what_the_backward_pass_needs_once_and_without_parameters(countable):
    expected = {
        "pyramid": CELLS * 8 * FLOAT,  # the input of its convolution; the frozen one needs none
        "neck": CELLS * (5 + 6) * FLOAT,  # the linear layer's input, and what passed the ReLU, which the head keeps too
        "rest": CELLS * 7 * FLOAT,  # what is scaled
    }
    assert saved_activations(*countable) == expected


def test_what_is_freed_on_the_way_is_not_kept(countable):
    class Wasteful(CountableDetector):
        def forward(self, records):
            self.class_embed[0](torch.ones(1000, 6)).exp().sum()  # a graph that nothing holds
            return super().forward(records)

    assert saved_activations(Wasteful(), countable[1]) == saved_activations(*countable)


def test_half_precision_keeps_half(countable):
    model, inputs = countable[0], random_inputs((80, 120), batch=1, channels=3)
    precision = Precision(torch.device("cpu"), torch.bfloat16)
    half, full = saved_activations(model, inputs, precision), saved_activations(model, inputs)
    assert half["neck"] == pytest.approx(full["neck"] / 2, rel=0.05)  # and the weights in half precision


def test_measuring_leaves_the_model_as_it_was(countable):
    model, inputs = countable
    model.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    count_flops(model, inputs), saved_activations(model, inputs)
    assert not any(module.training for module in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())


# ---- the detector


@pytest.fixture(scope="module")
def detector():
    """An image of 64 x 128 pixels: levels of 8 x 16, 4 x 8, 2 x 4 and 1 x 2 cells."""
    torch.manual_seed(0)
    model = tiny_dino(tiny_backbone(32), embed_dim=32, num_heads=4)
    return model, random_inputs((64, 128), batch=1, channels=3), 8 * 16 + 4 * 8 + 2 * 4 + 1 * 2


def test_every_parameter_of_a_detector_is_counted_once(detector):
    trained, frozen = count_parameters(detector[0])
    assert trained.total() == sum(p.numel() for p in detector[0].parameters()) and not frozen


def test_arithmetic_of_the_encoder_is_that_of_its_formula(detector):
    model, inputs, num_cells = detector
    width, heads, samples = 32, 4, 4 * 4  # four levels and points
    projections = width * width * 2 + width * heads * samples * 3  # values, output; offsets (x, y) and weights
    sampling = width * samples * 4  # four cells around every point
    feedforward = 2 * width * 64
    assert count_flops(model, inputs)["encoder"] == 2 * num_cells * (projections + sampling + feedforward)


def test_arithmetic_of_the_vit_is_that_of_its_formula(detector):
    model, inputs, _ = detector
    patches, width = 4 * 8, 64
    tokens = patches + 1
    block = 12 * tokens * width * width + 2 * tokens * tokens * width  # projections, MLP; both attention products
    assert count_flops(model, inputs)["backbone net"] == 2 * (3 * 16 * 16 * width * patches + 3 * block)


def test_frozen_backbone_keeps_nothing_and_checkpointed_layers_keep_little(detector):
    model, inputs, _ = detector
    before = saved_activations(model, inputs)
    assert set(before) >= {"backbone net", "pyramid", "neck", "encoder", "decoder", "heads", "losses"}
    backbone = tiny_backbone(32)
    backbone.net._freeze(True, LowRank())
    frugal = tiny_dino(backbone, embed_dim=32, num_heads=4, encoder={"use_checkpoint": True})
    after = saved_activations(frugal, inputs)
    assert after["backbone net"] == 0
    assert after["encoder"] < 0.3 * before["encoder"]
    assert after["decoder"] == pytest.approx(before["decoder"], rel=0.05)


def test_a_model_without_pretrained_weights_is_described_by_a_copy():
    net = {"pretrained": True, "checkpoint_path": "vit.pth", "depth": 2}
    cfg = OmegaConf.create({"model": {"backbones": [net], "depth": "${model.backbones.0.depth}"}, "data": net})
    before, copied = OmegaConf.to_container(cfg), without_pretrained(cfg)
    assert copied.model.backbones == [{"pretrained": False, "checkpoint_path": "", "depth": 2}]
    assert copied.model.depth == 2 and copied.data == net
    assert OmegaConf.to_container(cfg) == before


# ---- the program


TOOL = ROOT / "tools" / "analyze_model.py"
RECIPE = "projects/dino_dinov2/configs/COCO/dino_dinov2_b_12ep.py"


@pytest.fixture
def analyze(capsys):
    """The command in this process: arguments -> exit status, output, errors."""

    def run(*arguments):
        status = run_command("analyze", arguments)
        return (status, *capsys.readouterr())

    return run


def test_tool_prints_the_parts_of_a_recipe_without_its_weights(analyze):
    small = ("model.backbone.net.depth=1", "model.num_queries=20", "model.transformer.encoder.num_layers=1")
    small += ("model.transformer.encoder.feedforward_dim=64", "model.transformer.decoder.num_layers=2")
    status, output, _ = analyze(
        "--config-file", RECIPE, "--size", "64", "96", "--batch", "2", "train.device=cpu", *small
    )
    assert status == 0
    lines = output.splitlines()
    assert lines[0].startswith("2 images of 64 x 96 pixels")
    rows = {cells[1].strip(): cells[2:-1] for cells in (line.split("|") for line in lines if line.startswith("|"))}
    assert list(rows)[2:] == [
        "backbone net",
        "pyramid",
        "neck",
        "encoder",
        "query selection",
        "decoder",
        "heads",
        "losses",
        "rest",
        "total",
    ]
    net = [cell.strip() for cell in rows["backbone net"]]
    assert net[0] == "0" and net[3] == "0.0"  # frozen
    block = 12 * 768 * 768 + 15 * 768  # matrices; their biases, two norms and two layer scales
    assert int(net[1].replace(",", "")) == block + 768 * (3 * 16 * 16 + 1) + 768 * (1 + 1 + 37 * 37)
    numbers = [[int(row[i].replace(",", "")) for i in (0, 1)] for name, row in list(rows.items())[2:]]
    assert numbers[-1] == [sum(column) for column in zip(*numbers[:-1])]


@pytest.mark.parametrize(
    "arguments, message",
    [(("modle.x=1",), "modle"), (("--size", "0", "5"), "--size"), (("model.embed_dim=33",), "33 must be even")],
)
def test_tool_answers_a_mistake_with_one_line(analyze, arguments, message):
    status, output, errors = analyze("--config-file", RECIPE, *arguments)
    assert status != 0 and not output
    assert len(errors.splitlines()) == 1 and errors.startswith("error: ") and message in errors


def test_tool_loads_weights_only_where_asked(analyze):
    status, _, errors = analyze(
        "--config-file",
        RECIPE,
        "--weights",
        "model.backbone.net.checkpoint_path=absent.pth",
        "model.backbone.net.depth=1",
    )
    assert status != 0 and len(errors.splitlines()) == 1 and "absent.pth" in errors


def test_tool_starts_from_any_folder(python, tmp_path):
    line = [python, str(TOOL), "--config-file", "absent.py"]
    result = subprocess.run(line, capture_output=True, text=True, timeout=300, cwd=tmp_path)
    assert result.returncode != 0
    assert len(result.stderr.splitlines()) == 1 and result.stderr.startswith("error: config file 'absent.py'")
