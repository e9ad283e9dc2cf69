"""Every source of weights lands, and whatever does not land is one clear error."""

import re

import pytest
import timm
import torch
from safetensors.torch import save_file
from tiny_vits import DINOV3, HUB_NAMES, PLAIN, REGISTERS, TINY, TINY_DINOV3, hub_state, random_images, tiny_vit

from dinov2_detrex.backbone import SimpleFeaturePyramid, TimmBackbone, WeightsError


def load(path, name=PLAIN, **kwargs) -> TimmBackbone:
    shape = TINY_DINOV3 if name == DINOV3 else {**TINY, "img_size": 112}
    return TimmBackbone(name, checkpoint_path=str(path), **{**shape, **kwargs})


def assert_same_weights(backbone: torch.nn.Module, other: torch.nn.Module) -> None:
    for (name, a), b in zip(backbone.state_dict().items(), other.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


def test_a_known_name_is_its_file(tmp_path, monkeypatch):
    source = tiny_vit(PLAIN)
    torch.save(source.vit.state_dict(), tmp_path / "tiny.pth")
    (tmp_path / "own.csv").write_text(f"name,kind,address\ntiny,backbone,{(tmp_path / 'tiny.pth').as_uri()}\n")
    monkeypatch.setenv("DINOV2_DETREX_KNOWN_WEIGHTS", str(tmp_path / "own.csv"))
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "cache"))
    assert_same_weights(load("known://tiny"), source)


@pytest.mark.parametrize("name", [PLAIN, REGISTERS, DINOV3])
@pytest.mark.parametrize("kind", ["pth", "safetensors", "wrapped", "half"])
def test_timm_file_loads_whatever_its_container(name, kind, tmp_path):
    source = tiny_vit(name)
    state, path = source.vit.state_dict(), tmp_path / f"weights.{kind}"
    if kind == "half":
        state = {key: value.half() for key, value in state.items()}
    if kind == "safetensors":
        save_file(state, path)
    else:
        torch.save({"epoch": 3, "state_dict": state} if kind == "wrapped" else state, path)
    backbone = load(path, name)
    if kind == "half":
        source.vit.load_state_dict(state)
    assert_same_weights(backbone, source)
    assert re.match(rf"weights from {path} \(timm, patch 1[46]x1[46](, grid 8x8)?\): nothing", backbone.weights_report)


@pytest.mark.parametrize("registers", [0, 4])
@pytest.mark.parametrize("how", ["plain", "chunked blocks", "teacher of a training checkpoint"])
def test_metas_layouts_load(registers, how, tmp_path):
    """The values are checked against the original's features in test_golden_backbone; here that all layouts agree."""
    state = hub_state(registers)
    torch.save(state, tmp_path / "plain.pth")
    if how == "chunked blocks":
        state = {re.sub(r"^blocks\.(\d)", r"blocks.0.\1", key): value for key, value in state.items()}
    if how.startswith("teacher"):
        heads = {"dino_head.mlp.0.weight": torch.zeros(4, 4)}
        state = {"teacher": {**{f"backbone.{key}": value for key, value in state.items()}, **heads}}
    torch.save(state, tmp_path / "other.pth")
    expected, actual = (load(tmp_path / file, HUB_NAMES[registers]) for file in ("plain.pth", "other.pth"))
    assert_same_weights(actual, expected)
    assert "Meta DINOv2" in actual.weights_report


def test_metas_swiglu_names_load(tmp_path):
    giant = {"mlp_ratio": 2 * 176 / 64, "mlp_layer": timm.layers.SwiGLUPacked, "act_layer": torch.nn.SiLU}
    source = tiny_vit(**giant)
    state = {
        key.replace("mlp.fc1.", "mlp.w12.").replace("mlp.fc2.", "mlp.w3."): value
        for key, value in source.vit.state_dict().items()
    }
    torch.save(state, tmp_path / "giant.pth")
    assert_same_weights(load(tmp_path / "giant.pth", **giant), source)


@pytest.mark.parametrize("name", [PLAIN, REGISTERS, DINOV3])
def test_backbone_inside_a_detector_checkpoint_loads(name, tmp_path):
    detector = torch.nn.Module()
    detector.backbone = SimpleFeaturePyramid(tiny_vit(name), "p-1", 32, (2.0, 1.0, 0.5))
    checkpoint = {"model": detector.state_dict(), "optimizer": {"state": {}}, "iteration": 7}
    torch.save(checkpoint, tmp_path / "model_final.pth")
    backbone = load(tmp_path / "model_final.pth", name)
    assert_same_weights(backbone, detector.backbone.net)
    assert "inside a checkpoint, under 'backbone.net.timm_model.model.'" in backbone.weights_report


def test_detector_checkpoint_keeps_a_grid_that_is_not_square(tmp_path):
    source = tiny_vit(img_size=(56, 224))  # 4 x 16 cells, as many as 8 x 8
    torch.save({"model": {f"backbone.net.{k}": v for k, v in source.state_dict().items()}}, tmp_path / "model.pth")
    assert_same_weights(load(tmp_path / "model.pth", img_size=(56, 224)), source)


def test_metas_dinov3_names_load(tmp_path):
    """The names of Meta's DINOv3 files, which timm's own filter converts."""
    source = tiny_vit(DINOV3)
    renames = {"reg_token": "storage_tokens", "gamma_1": "ls1.gamma", "gamma_2": "ls2.gamma"}
    state = {}
    for key, value in source.vit.state_dict().items():
        for timm_name, meta_name in renames.items():
            key = key.replace(timm_name, meta_name)
        state[key] = value
    state |= {"mask_token": torch.zeros(1, 64), "rope_embed.periods": torch.zeros(4)}
    torch.save(state, tmp_path / "dinov3.pth")
    assert_same_weights(load(tmp_path / "dinov3.pth", DINOV3), source)


def test_blocks_after_the_last_one_returned_are_left_in_the_file(tmp_path):
    source = tiny_vit(norm=True)
    torch.save(source.vit.state_dict(), tmp_path / "weights.pth")
    backbone = load(tmp_path / "weights.pth", out_indices=(1,))
    assert len(backbone.vit.blocks) == 2
    assert torch.equal(backbone.vit.blocks[1].mlp.fc2.weight, source.vit.blocks[1].mlp.fc2.weight)


@pytest.mark.parametrize("how", ["plain file", "checkpoint"])
def test_a_convnet_takes_files_too(how, tmp_path):
    full = timm.create_model("test_convnext")
    torch.save(full.state_dict(), tmp_path / "atto.pth")
    backbone = TimmBackbone("test_convnext", out_indices=(1, 2), checkpoint_path=str(tmp_path / "atto.pth"))
    if how == "checkpoint":
        torch.save({"model": {f"net.{k}": v for k, v in backbone.state_dict().items()}}, tmp_path / "model.pth")
        backbone = TimmBackbone("test_convnext", out_indices=(1, 2), checkpoint_path=str(tmp_path / "model.pth"))
    images = random_images(1, 3, 64, 96)
    with torch.no_grad():
        expected = full.eval().forward_intermediates(images, indices=[1, 2], intermediates_only=True)
        actual = backbone.eval()(images)
    assert all(torch.equal(actual[name], feature) for name, feature in zip(("p1", "p2"), expected, strict=True))


def test_pretrained_comes_from_timms_cache_without_network(tmp_path, monkeypatch):
    """The folder layout of the Hugging Face cache, filled by hand; `cache_dir` is timm's keyword."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    hub_id = timm.get_pretrained_cfg("vit_small_patch14_dinov2.lvd142m").hf_hub_id
    repository = tmp_path / f"models--{hub_id.replace('/', '--')}"
    snapshot = repository / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    source = timm.create_model(PLAIN, num_classes=0, depth=2)
    save_file(source.state_dict(), snapshot / "model.safetensors")
    options = {"pretrained": True, "patch_size": 16, "img_size": 592, "cache_dir": str(tmp_path), "depth": 2}
    backbone = TimmBackbone("vit_small_patch14_dinov2.lvd142m", **options)
    assert torch.equal(backbone.vit.pos_embed, source.pos_embed)
    assert torch.equal(backbone.vit.blocks[1].mlp.fc1.weight, source.blocks[1].mlp.fc1.weight)
    assert "timm's vit_small_patch14_dinov2.lvd142m (timm, patch 14x14, grid 37x37)" in backbone.weights_report


@pytest.mark.parametrize("name", [PLAIN, "resnet18"])
def test_failed_download_says_how_to_give_a_local_file(name, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(WeightsError, match=rf"'{name}'.*checkpoint_path=FILE") as error:
        TimmBackbone(name, pretrained=True, cache_dir=str(tmp_path), **(TINY if name == PLAIN else {}))
    assert error.value.__cause__ is not None
    assert "\n" not in str(error.value)


def test_a_file_comes_before_a_download(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    source = tiny_vit()
    torch.save(source.vit.state_dict(), tmp_path / "weights.pth")
    assert_same_weights(load(tmp_path / "weights.pth", pretrained=True), source)


class Surprise:
    """Something that only unpickling code could make."""


def bad_file(kind: str, folder):
    state, path = tiny_vit().vit.state_dict(), folder / f"{kind}.pth".replace(" ", "_")
    if kind == "truncated safetensors":
        save_file(state, path)
    elif kind == "text":
        path.write_text("version https://git-lfs.github.com/spec/v1\n")
    elif kind == "pickle with code":
        torch.save({"model": state, "config": Surprise()}, path)
    elif kind == "list":
        torch.save([1, 2], path)
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "another model":
        torch.save(timm.create_model("resnet18").state_dict(), path)
    elif kind == "no backbone in it":
        torch.save({"model": {"head.weight": torch.zeros(2, 2)}}, path)
    else:
        torch.save(state, path)
    if kind.startswith("truncated"):
        path.write_bytes(path.read_bytes()[:-5000])
    return path


@pytest.mark.parametrize(
    ("kind", "cause"),
    [
        ("truncated torch", "truncated"),
        ("truncated safetensors", "truncated"),
        ("text", "no PyTorch or safetensors file"),
        ("empty", "it is empty"),
        ("pickle with code", "DINOV2_DETREX_UNSAFE_PICKLE=1"),
        ("list", "no state dict: found an object of type list"),
        ("another model", "no ViT of a known layout"),
        ("no backbone in it", "no ViT of a known layout"),
    ],
)
def test_unusable_file_is_one_line_with_file_and_cause(kind, cause, tmp_path):
    path = bad_file(kind, tmp_path)
    with pytest.raises(WeightsError, match=cause) as error:
        load(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_missing_file_and_empty_folder_are_named(tmp_path):
    with pytest.raises(WeightsError, match="no weights file .*nowhere.pth"):
        load(tmp_path / "nowhere.pth")
    with pytest.raises(WeightsError, match="neither model.safetensors nor pytorch_model.bin"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        (lambda state: state.pop("blocks.1.ls1.gamma"), "lacks blocks.1.ls1.gamma"),
        (lambda state: state.update({"blocks.3.norm1.weight": torch.ones(64)}), "no blocks.3.norm1.weight"),
        (lambda state: state.update({"cls_token": torch.zeros(1, 1, 32)}), "cls_token is 1x1x32 in it, 1x1x64"),
        (lambda state: state.update({"pos_embed": torch.zeros(1, 31, 64)}), "30 positions, which is no square grid"),
        (lambda state: state.update({"reg_token": torch.zeros(1, 4, 64)}), "no reg_token"),
    ],
)
def test_weights_that_do_not_fit_are_named(change, cause, tmp_path):
    state = tiny_vit().vit.state_dict()
    change(state)
    torch.save(state, tmp_path / "weights.pth")
    with pytest.raises(WeightsError, match=cause):
        load(tmp_path / "weights.pth")


def test_a_file_of_another_width_or_kind_is_refused(tmp_path):
    torch.save(tiny_vit(REGISTERS).vit.state_dict(), tmp_path / "registers.pth")
    with pytest.raises(WeightsError, match="no reg_token"):
        load(tmp_path / "registers.pth")
    with pytest.raises(WeightsError, match="embed_dim|32"):
        load(tmp_path / "registers.pth", REGISTERS, embed_dim=32)
    with pytest.raises(WeightsError, match="does not fit 'test_convnext'"):
        TimmBackbone("test_convnext", checkpoint_path=str(tmp_path / "registers.pth"))


def test_the_final_norm_must_land_where_it_is_used(tmp_path):
    torch.save(tiny_vit().vit.state_dict(), tmp_path / "pruned.pth")  # a backbone without norm has pruned it
    with pytest.raises(WeightsError, match=r"lacks norm\.weight, norm\.bias"):
        load(tmp_path / "pruned.pth", norm=True)


def test_two_vits_in_one_file_are_not_guessed_between(tmp_path):
    state = tiny_vit().vit.state_dict()
    both = {f"{side}.{key}": value for side in ("image", "depth") for key, value in state.items()}
    torch.save(both, tmp_path / "both.pth")
    with pytest.raises(WeightsError, match=r"several ViTs, under 'image\.', 'depth\.'"):
        load(tmp_path / "both.pth")


def test_report_is_one_line_of_the_projects_log(tmp_path, caplog):
    torch.save(tiny_vit().vit.state_dict(), tmp_path / "weights.pth")
    caplog.clear()
    with caplog.at_level("INFO"):
        load(tmp_path / "weights.pth", patch_size=16)
    (line,) = [record.getMessage() for record in caplog.records if record.name.startswith("dinov2_detrex")]
    assert line == (
        f"{PLAIN}: weights from {tmp_path}/weights.pth (timm, patch 14x14, grid 8x8): "
        "positions 8x8 -> 7x7 (img_size=128 would keep them); patch 14x14 -> 16x16 (pi)"
    )
