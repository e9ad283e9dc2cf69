"""The adapter against Hugging Face transformers' Dinov2 models: random weights, through the files that those write."""

import pytest
import torch
import transformers
from timm.layers import SwiGLUPacked
from tiny_vits import PLAIN, REGISTERS, TINY, random_images, randomise, relative_error

from dinov2_detrex.backbone import TimmBackbone

SHAPE = {
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "image_size": 112,
    "patch_size": 14,
    "layerscale_value": 1.0,
    "out_features": ["stage2", "stage3"],
}
SWIGLU = {  # hidden width as in transformers, 8 * ceil(64 * 4 * 2 / 3 / 8) = 176, twice since gate and value are packed
    "mlp_ratio": 2 * 176 / 64,
    "mlp_layer": SwiGLUPacked,
    "act_layer": torch.nn.SiLU,
}


def twin(registers: bool, norm: bool = False, **config):
    """transformers' backbone with random weights, evaluation mode."""
    kind = "Dinov2WithRegisters" if registers else "Dinov2"
    options = {**SHAPE, "apply_layernorm": norm, **({"num_register_tokens": 4} if registers else {}), **config}
    config = getattr(transformers, kind + "Config")(**options)
    return randomise(getattr(transformers, kind + "Backbone")(config))


def adapter(model, registers: bool, folder, **kwargs) -> TimmBackbone:
    model.save_pretrained(folder)
    name = REGISTERS if registers else PLAIN
    options = {**TINY, "img_size": 112, "out_indices": (1, 2), "checkpoint_path": str(folder / "model.safetensors")}
    return TimmBackbone(name, **{**options, **kwargs}).eval()


def assert_equal_maps(model, backbone, size, tolerance=1e-5):
    images = random_images(2, 3, *size)
    with torch.no_grad():
        expected, actual = model(images).feature_maps, backbone(images)
    for name, feature_map in zip(("p1", "p2"), expected, strict=True):
        assert relative_error(actual[name], feature_map) < tolerance, (size, name)


@pytest.mark.parametrize("norm", [False, True], ids=["prenorm", "norm"])
@pytest.mark.parametrize("size", [(112, 112), (84, 140), (224, 182)])
def test_register_model_equals_transformers_at_every_size(norm, size, tmp_path):
    model = twin(registers=True, norm=norm)
    assert_equal_maps(model, adapter(model, True, tmp_path, norm=norm), size)


@pytest.mark.parametrize("norm", [False, True], ids=["prenorm", "norm"])
def test_plain_model_equals_transformers_at_the_native_size(norm, tmp_path):
    model = twin(registers=False, norm=norm)
    assert_equal_maps(model, adapter(model, False, tmp_path, norm=norm), (112, 112))


def test_transformers_departs_from_the_original_at_other_sizes(tmp_path):
    """It resizes the plain model's positions by size, the original by (n + 0.1) / n0: the table says so."""
    model = twin(registers=False)
    backbone = adapter(model, False, tmp_path)
    images = random_images(1, 3, 84, 140)
    with torch.no_grad():
        error = relative_error(backbone(images)["p2"], model(images).feature_maps[1])
    assert 1e-4 < error < 5e-2


def test_swiglu_model_equals_transformers(tmp_path):
    model = twin(registers=True, use_swiglu_ffn=True)
    assert_equal_maps(model, adapter(model, True, tmp_path, **SWIGLU), (84, 140))


@pytest.mark.parametrize("registers", [False, True])
def test_the_names_of_transformers_modules_load_like_those_of_its_files(registers, tmp_path):
    model = twin(registers)
    from_file = adapter(model, registers, tmp_path)
    torch.save(model.state_dict(), tmp_path / "modules.pth")
    from_modules = adapter(model, registers, tmp_path, checkpoint_path=str(tmp_path / "modules.pth"))
    for (name, a), b in zip(from_file.state_dict().items(), from_modules.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


def test_a_model_folder_and_a_classifier_around_the_model_load_too(tmp_path):
    model = twin(registers=False)
    from_file = adapter(model, False, tmp_path / "backbone")
    classifier = transformers.Dinov2ForImageClassification(transformers.Dinov2Config(**SHAPE, num_labels=7))
    missing = classifier.dinov2.load_state_dict(model.state_dict(), strict=False).missing_keys
    assert not missing
    classifier.save_pretrained(tmp_path / "classifier")
    from_folder = TimmBackbone(
        PLAIN, img_size=112, out_indices=(1, 2), checkpoint_path=str(tmp_path / "classifier"), **TINY
    )
    for (name, a), b in zip(from_file.state_dict().items(), from_folder.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
