"""Frozen means: unchanged by training, in evaluation mode for good, without gradients and activations."""

import copy

import pytest
import torch
from tiny_vits import DINOV3, PLAIN, REGISTERS, random_images, tiny_vit

from dinov2_detrex.backbone import SimpleFeaturePyramid, TimmBackbone
from dinov2_detrex.backbone.freezing import FrozenPart
from dinov2_detrex.training.ema import ModelEMA

EMBEDDING = {"pos_embed", "patch_embed.proj.weight", "patch_embed.proj.bias"}


def frozen_names(backbone: TimmBackbone) -> set[str]:
    return {name for name, parameter in backbone.vit.named_parameters() if not parameter.requires_grad}


def train_one_step(backbone, *size: int) -> None:
    optimizer = torch.optim.SGD([p for p in backbone.parameters() if p.requires_grad], lr=1.0, weight_decay=0.1)
    backbone.train()
    backbone(random_images(2, 3, *(size or (84, 140))))["p-1"].square().mean().backward()
    optimizer.step()


@pytest.mark.parametrize("name", [PLAIN, REGISTERS, DINOV3])
@pytest.mark.parametrize("freeze", ["embed", 1, 2, 3])
def test_exactly_the_frozen_part_is_unchanged_after_a_step(name, freeze):
    backbone = tiny_vit(name, freeze=freeze, norm=True)
    before = copy.deepcopy(backbone.vit.state_dict())
    train_one_step(backbone, 6 * backbone.size_divisibility, 10 * backbone.size_divisibility)
    changed = {key for key, value in backbone.vit.state_dict().items() if not torch.equal(value, before[key])}
    names = {key for key, _ in backbone.vit.named_parameters()}
    if freeze == "embed":
        expected = EMBEDDING & names
    else:
        expected = {key for key in names if not key.startswith(("norm.", *(f"blocks.{i}." for i in range(freeze, 3))))}
    assert names - changed == expected == frozen_names(backbone)


def test_fully_frozen_backbone_trains_only_what_stands_on_it():
    pyramid = SimpleFeaturePyramid(tiny_vit(freeze=True), "p-1", 32, (2.0, 1.0, 0.5))
    before = copy.deepcopy(pyramid.state_dict())
    optimizer = torch.optim.SGD([p for p in pyramid.parameters() if p.requires_grad], lr=1.0)
    pyramid.train()
    sum(level.square().mean() for level in pyramid(random_images(2, 3, 112, 112)).values()).backward()
    optimizer.step()
    for key, value in pyramid.state_dict().items():
        assert torch.equal(value, before[key]) == key.startswith("net."), key
    assert all(parameter.grad is None for parameter in pyramid.net.parameters())


def test_frozen_part_stays_in_evaluation_mode_through_train():
    model = torch.nn.Sequential(tiny_vit(freeze=True, drop_path_rate=0.5))
    assert not any(module.training for module in model.train()[0].timm_model.modules())
    partly = tiny_vit(freeze=2, drop_path_rate=0.5).train()
    assert [block.training for block in partly.vit.blocks] == [False, False, True]
    assert not partly.vit.patch_embed.training
    assert all(block.training for block in tiny_vit(freeze="embed").train().vit.blocks)


def test_output_of_a_frozen_backbone_carries_no_graph_even_for_images_that_do():
    images = random_images(1, 3, 112, 112).requires_grad_()
    assert not tiny_vit(freeze=True).train()(images)["p-1"].requires_grad
    assert tiny_vit(freeze=2).train()(images)["p-1"].requires_grad


@pytest.mark.parametrize(("freeze", "most"), [("embed", 1.0), (1, 0.7), (2, 0.4), (True, 0.0)])
def test_frozen_part_keeps_no_activations(freeze, most):
    def saved(backbone) -> int:
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.numel()) or t, lambda t: t):
            backbone.train()(random_images(1, 3, 224, 224))
        return sum(sizes)

    assert saved(tiny_vit(freeze=freeze)) <= most * saved(tiny_vit())


def test_dropout_of_a_frozen_block_is_off_and_of_the_next_one_on():
    backbone = tiny_vit(freeze=2, drop_path_rate=0.9, out_indices=(1, 2)).train()
    images = random_images(8, 3, 56, 56)
    first, second = backbone(images), backbone(images)
    assert torch.equal(first["p1"], second["p1"])
    assert not torch.equal(first["p2"], second["p2"])


def test_frozen_stays_frozen_through_checkpoints_and_copies(tmp_path):
    backbone = tiny_vit(freeze=2)
    torch.save(backbone.state_dict(), tmp_path / "state.pth")
    other = tiny_vit(seed=1, freeze=2)
    other.load_state_dict(torch.load(tmp_path / "state.pth", weights_only=True))
    for model in (other, copy.deepcopy(backbone)):
        assert frozen_names(model) == frozen_names(backbone)
        assert [block.training for block in model.train().vit.blocks] == [False, False, True]


def test_ema_leaves_a_frozen_backbone_as_it_is():
    model = torch.nn.Module()
    model.backbone = SimpleFeaturePyramid(tiny_vit(freeze=True), "p-1", 32, (1.0,))
    ema = ModelEMA(model, decay=0.9)
    before = copy.deepcopy(model.backbone.net.state_dict())
    ema.update()
    with ema.applied():
        assert all(torch.equal(value, before[key]) for key, value in model.backbone.net.state_dict().items())
        assert not any(p.requires_grad for p in model.backbone.net.parameters())
    assert not any(module.training for module in model.train().backbone.net.timm_model.modules())


def test_ddp_does_not_wait_for_frozen_parameters(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    try:
        pyramid = SimpleFeaturePyramid(tiny_vit(freeze=2), "p-1", 32, (2.0, 1.0))
        parallel = torch.nn.parallel.DistributedDataParallel(pyramid)
        for _ in range(2):  # a second step fails where a parameter waits for a gradient that never comes
            sum(level.square().mean() for level in parallel(random_images(1, 3, 112, 112)).values()).backward()
        assert [block.training for block in parallel.train().module.net.vit.blocks] == [False, False, True]
    finally:
        torch.distributed.destroy_process_group()


def test_other_models_freeze_as_a_whole():
    backbone = TimmBackbone("test_resnet", freeze=True).train()
    before = copy.deepcopy(backbone.state_dict())
    backbone(random_images(4, 3, 64, 64))  # batch norm would move its statistics
    assert all(torch.equal(value, before[key]) for key, value in backbone.state_dict().items())
    assert not any(parameter.requires_grad for parameter in backbone.parameters())


@pytest.mark.parametrize(
    ("freeze", "text"), [(4, "has 3 blocks"), (-1, "freeze=-1"), ("patch", '"embed"'), (1.5, "freeze=1.5")]
)
def test_freeze_value_without_meaning_is_refused(freeze, text):
    with pytest.raises(ValueError, match=text):
        tiny_vit(freeze=freeze)


@pytest.mark.parametrize("freeze", [False, None, 0])
def test_nothing_is_frozen_by_default(freeze):
    assert tiny_vit(freeze=freeze).frozen == FrozenPart()
    assert not frozen_names(tiny_vit(freeze=freeze))
