"""Low-rank adapters: nothing at first, alone trained, and nothing left of them once they are merged."""

import copy

import pytest
import torch
from tiny_vits import DINOV3, PLAIN, REGISTERS, random_images, tiny_vit
from torch import nn

from dinov2_detrex.backbone import BackboneLrFactor, SimpleFeaturePyramid, TimmBackbone, get_optimizer_params
from dinov2_detrex.backbone.adapters import (
    AdaptedLinear,
    LowRank,
    merge_adapters,
    merged_state,
    with_adapters_of,
)
from dinov2_detrex.training.ema import ModelEMA

NAMES = ("lora_A", "lora_B")


def adapted(name: str = PLAIN, **options) -> TimmBackbone:
    """A tiny ViT whose adapters do something."""
    backbone = tiny_vit(name, freeze="lora", **options)
    for key, value in backbone.named_parameters():
        if key.endswith(NAMES):
            nn.init.normal_(value, std=0.2)
    return backbone


def images(backbone) -> torch.Tensor:
    patch = backbone.size_divisibility
    return random_images(2, 3, 6 * patch, 8 * patch)


def test_new_adapters_change_nothing():
    torch.manual_seed(0)
    plain = TimmBackbone(PLAIN, embed_dim=64, depth=3, num_heads=4, img_size=112).eval()
    same = TimmBackbone(PLAIN, embed_dim=64, depth=3, num_heads=4, img_size=112, freeze="lora").eval()
    assert not same.load_state_dict(plain.state_dict(), strict=False).unexpected_keys
    assert torch.equal(same(images(plain))["p-1"], plain(images(plain))["p-1"])


@pytest.mark.parametrize("name", [PLAIN, REGISTERS, DINOV3])
@pytest.mark.parametrize(
    ("options", "blocks", "layers"),
    [
        ({}, {0, 1, 2}, {"attn.qkv", "attn.proj"}),
        (
            {"lora_blocks": (2, 1), "lora_layers": ("attn.qkv", "fc1", "fc2")},
            {1, 2},
            {"attn.qkv", "mlp.fc1", "mlp.fc2"},
        ),
    ],
)
def test_training_changes_the_adapters_alone(name, options, blocks, layers):
    backbone = adapted(name, **options).train()
    before = copy.deepcopy(backbone.vit.state_dict())
    optimizer = torch.optim.SGD(get_optimizer_params(backbone, base_lr=1.0, weight_decay=0.1), lr=1.0)
    backbone(images(backbone))["p-1"].square().mean().backward()
    optimizer.step()
    changed = {key for key, value in backbone.vit.state_dict().items() if not torch.equal(value, before[key])}
    assert changed == {f"blocks.{i}.{layer}.{part}" for i in blocks for layer in layers for part in NAMES}


@pytest.mark.parametrize("options", [{}, {"window_size": 4}, {"lora_layers": ("fc2", "proj"), "lora_rank": 3}])
@pytest.mark.parametrize("name", [PLAIN, DINOV3])
def test_merged_a_vit_gives_the_same_and_is_a_plain_one(name, options):
    backbone = adapted(name, **options)
    with torch.no_grad():
        expected = backbone(images(backbone))["p-1"]
        merged = merge_adapters(copy.deepcopy(backbone))
        torch.testing.assert_close(merged(images(backbone))["p-1"], expected, rtol=1e-4, atol=1e-4)
        plain = tiny_vit(name, **{k: v for k, v in options.items() if not k.startswith("lora_")})
        assert not torch.allclose(plain(images(backbone))["p-1"], expected, atol=1e-2)
        plain.load_state_dict(merged_state(backbone.state_dict()))
    assert {key: value.sum() for key, value in merged.state_dict().items()} == {
        key: value.sum() for key, value in plain.state_dict().items()
    }
    assert not any(isinstance(module, AdaptedLinear) for module in merged.modules())


def test_what_comes_before_the_first_adapter_keeps_no_activations():
    def saved(backbone) -> int:
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.numel()) or t, lambda t: t):
            backbone.train()(random_images(1, 3, 224, 224))
        return sum(sizes)

    all_blocks, last = saved(adapted()), saved(adapted(lora_blocks=[2]))
    assert last < 0.4 * all_blocks
    modes = [block.training for block in adapted(lora_blocks=[2]).train().vit.blocks]
    assert modes == [False, False, True]


def test_dropout_is_of_the_adapters_in_training_alone():
    backbone = adapted(lora_dropout=0.5)
    first, second = (backbone.train()(images(backbone))["p-1"] for _ in range(2))
    assert not torch.equal(first, second)
    assert torch.equal(*(backbone.eval()(images(backbone))["p-1"] for _ in range(2)))


def test_adapters_train_at_the_rate_of_their_block():
    pyramid = SimpleFeaturePyramid(adapted(), "p-1", 32, (1.0,))
    factor = BackboneLrFactor(lr_decay_rate=0.5, num_layers=3)
    groups = get_optimizer_params(pyramid, base_lr=1.0, weight_decay=0.1, lr_factor_func=factor)
    rate_of = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
    rates = {name: rate_of[id(p)] for name, p in pyramid.named_parameters() if p.requires_grad}
    assert rates.pop("net.timm_model.model.blocks.0.attn.qkv.lora_A") == 0.125
    assert all(
        rate == (0.5 ** (3 - int(name.split(".")[4])) if "lora" in name else 1.0) for name, rate in rates.items()
    )


def test_an_average_moves_the_adapters_and_their_names_are_the_models():
    model = adapted()
    ema = ModelEMA(model, decay=0.5)
    before = copy.deepcopy(model.state_dict())
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(1)
    ema.update()
    average = ema.model_state_dict()
    assert average.keys() == before.keys()
    for name, value in average.items():
        torch.testing.assert_close(value, before[name] + (0.5 if name.endswith(NAMES) else 0.0))


def test_a_file_with_adapters_fills_a_plain_vit(tmp_path):
    backbone = adapted()
    torch.save(
        {"model": {f"backbone.net.{name}": value for name, value in backbone.state_dict().items()}}, tmp_path / "d"
    )
    plain = tiny_vit(seed=5, checkpoint_path=str(tmp_path / "d"))
    torch.manual_seed(0)
    loaded = TimmBackbone(
        PLAIN, embed_dim=64, depth=3, num_heads=4, img_size=112, init_values=1.0, checkpoint_path=str(tmp_path / "d")
    ).eval()
    assert plain.state_dict().keys() == loaded.state_dict().keys()
    with torch.no_grad():
        torch.testing.assert_close(loaded(images(plain))["p-1"], backbone(images(plain))["p-1"], rtol=1e-4, atol=1e-4)


def test_adapters_of_another_rank_are_merged_before_a_start_from_them():
    state, other = adapted().state_dict(), adapted(lora_rank=2).state_dict()
    assert with_adapters_of(adapted().state_dict(), state) is state
    assert not any("lora" in name for name in with_adapters_of(other, state))


REFUSED = {
    "a number of frozen blocks": ({"freeze": 2, "lora_rank": 4}, "freeze=2 has no adapters, so that lora_rank=4"),
    "everything frozen": ({"freeze": True, "lora_blocks": [1]}, "freeze=True has no adapters"),
    "a block that is not there": ({"lora_blocks": [3]}, r"lora_blocks=\[3\]: give some of the blocks 0 to 2"),
    "no block": ({"lora_blocks": []}, "give some of the blocks"),
    "a layer that is not there": (
        {"lora_layers": ["query"]},
        "block 0 has no 'query', but attn.qkv, attn.proj, mlp.fc1",
    ),
    "no layer": ({"lora_layers": []}, "give some of attn.qkv"),
    "no rank": ({"lora_rank": 0}, "lora_rank"),
    "too much dropout": ({"lora_dropout": 1.5}, "lora_dropout"),
}


@pytest.mark.parametrize(("options", "words"), REFUSED.values(), ids=REFUSED)
def test_adapters_that_cannot_be_are_refused_in_a_line(options, words):
    with pytest.raises(ValueError, match=words) as error:
        tiny_vit(**{"freeze": "lora", **options})
    assert "\n" not in str(error.value)


def test_a_model_without_blocks_has_no_adapters():
    with pytest.raises(ValueError, match="plain ViT; this model takes True or False"):
        TimmBackbone("test_resnet", freeze="lora")


def test_an_attention_that_uses_the_weight_without_its_layer_is_refused():
    eva = {"embed_dim": 64, "depth": 2, "num_heads": 4, "freeze": "lora"}
    with pytest.raises(ValueError, match="EvaAttention uses the weight of attn.qkv directly"):
        TimmBackbone("eva02_tiny_patch14_224", qkv_fused=True, swiglu_mlp=False, **eva)
    TimmBackbone("eva02_tiny_patch14_224", qkv_fused=True, swiglu_mlp=False, lora_layers=["proj"], **eva)


def test_an_adapted_layer_is_that_of_peft():
    peft = pytest.importorskip("peft", reason="the reference implementation, pip install peft")
    torch.manual_seed(0)
    linear = nn.Linear(12, 20)
    own = AdaptedLinear(copy.deepcopy(linear), LowRank(rank=3, alpha=5.0))
    wrapped = peft.inject_adapter_in_model(
        peft.LoraConfig(r=3, lora_alpha=5.0, target_modules=["0"]), nn.Sequential(copy.deepcopy(linear))
    )
    layer = wrapped[0]
    for ours, theirs in ((own.lora_A, layer.lora_A["default"].weight), (own.lora_B, layer.lora_B["default"].weight)):
        assert ours.shape == theirs.shape
        nn.init.normal_(ours)
        theirs.data.copy_(ours.data)
    x = torch.randn(4, 12)
    torch.testing.assert_close(own(x), wrapped(x))
    layer.merge()
    torch.testing.assert_close(own.merged().weight, layer.base_layer.weight)
