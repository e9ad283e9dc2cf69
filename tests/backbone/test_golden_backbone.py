"""The adapter gives the numbers of the original DINOv2 code, and of detrex with detectron2's pyramid."""

import pytest
import torch
from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from golden_numbers import fill_from_names, golden_image, load_json, load_npz
from tiny_vits import HUB_NAMES, TINY, hub_state, relative_error

from dinov2_detrex.backbone import SimpleFeaturePyramid, TimmBackbone

HUB_CASES = load_json("dinov2_hub_cases.json")


@pytest.fixture(scope="session")
def hub_file(tmp_path_factory):
    """registers -> file of the golden weights, laid out like Meta's published checkpoints."""

    def write(registers: int):
        path = tmp_path_factory.getbasetemp() / f"dinov2_tiny14_reg{registers}_pretrain.pth"
        torch.save(hub_state(registers), path)
        return str(path)

    return write


def hub_backbone(case: dict, hub_file, **kwargs) -> TimmBackbone:
    name = HUB_NAMES[case["registers"]]
    path = hub_file(case["registers"])
    return TimmBackbone(name, img_size=112, checkpoint_path=path, **TINY, **kwargs).eval()


def hub_image(case: dict) -> torch.Tensor:
    height, width = case["height"], case["width"]
    pixels = golden_image(f"dinov2/{case['registers']}/{height}x{width}", 2, 3, height, width)
    return (torch.from_numpy(pixels) - 127.5) / 64


@pytest.mark.parametrize("case", HUB_CASES, ids=lambda case: case["key"])
@pytest.mark.parametrize("norm", [False, True], ids=["prenorm", "norm"])
def test_last_map_equals_the_original_at_every_size(case, norm, hub_file):
    backbone = hub_backbone(case, hub_file, out_indices=(-1,), norm=norm, pos_embed="hub")
    with torch.no_grad():
        actual = backbone(hub_image(case))["p-1"]
    expected = load_npz("dinov2_hub.npz")[f"{case['key']}/{'norm' if norm else 'prenorm'}"]
    assert relative_error(actual, expected) < 1e-5


@pytest.mark.parametrize("case", HUB_CASES, ids=lambda case: case["key"])
def test_inner_map_equals_the_original_beside_the_last(case, hub_file):
    backbone = hub_backbone(case, hub_file, out_indices=(1, -1))
    with torch.no_grad():
        maps = backbone(hub_image(case))
    assert list(maps) == ["p1", "p-1"]
    golden = load_npz("dinov2_hub.npz")
    assert relative_error(maps["p1"], golden[f"{case['key']}/layer1_prenorm"]) < 1e-5
    assert relative_error(maps["p-1"], golden[f"{case['key']}/prenorm"]) < 1e-5


@pytest.mark.parametrize("case", HUB_CASES, ids=lambda case: case["key"])
def test_class_token_is_offered_beside_the_map(case, hub_file):
    backbone = hub_backbone(case, hub_file, norm=True, return_prefix_tokens=True)
    with torch.no_grad():
        output = backbone(hub_image(case))
    assert list(output) == ["p-1", "p-1.cls"] + (["p-1.reg"] if case["registers"] else [])
    assert relative_error(output["p-1.cls"], load_npz("dinov2_hub.npz")[f"{case['key']}/norm_cls"]) < 1e-5


def golden_pyramid(**kwargs) -> torch.nn.Module:
    """The backbone of the golden detector, in a module that gives it the prefix `backbone.`."""
    net = TimmBackbone("vit_small_patch14_dinov2", patch_size=16, img_size=128, out_indices=(-1,), **TINY, **kwargs)
    detector = torch.nn.Module()
    detector.backbone = SimpleFeaturePyramid(net, "p-1", 256, (2.0, 1.0, 0.5), LastLevelMaxPool(), "LN")
    fill_from_names(detector)
    return detector.eval()


def normalised_golden_image() -> torch.Tensor:
    mean, std = torch.tensor([[123.675, 116.280, 103.530], [58.395, 57.120, 57.375]]).view(2, 3, 1, 1)
    return ((torch.from_numpy(golden_image("dino/eval", 3, 128, 192)) - mean) / std)[None]


def test_state_dict_has_detectron2s_names_and_order():
    expected = {key: shape for key, shape in load_json("dino_keys.json").items() if key.startswith("backbone.")}
    actual = {key: list(value.shape) for key, value in golden_pyramid().state_dict().items()}
    assert list(actual.items()) == list(expected.items())


@pytest.mark.parametrize("how", [{"pos_embed": "timm"}, {"dynamic_img_size": True}], ids=["by mode", "by timm keyword"])
def test_pyramid_equals_detectron2s_on_timms_positions(how):
    with torch.no_grad():
        levels = golden_pyramid(**how).backbone(normalised_golden_image())
    assert list(levels) == ["p3", "p4", "p5", "p6"]
    golden = load_npz("dino.npz")
    for name, level in levels.items():
        assert relative_error(level, golden[f"eval/backbone/{name}"]) < 1e-5, name
