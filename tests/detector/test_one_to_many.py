"""Groups of training queries find every object once more each, and nothing else of the detector notices them."""

import copy

import pytest
import torch
from tiny_dino import image, record, small_dino, tiny_dino
from torch import nn

GROUPS, QUERIES = 3, 5  # of the 12 queries that `small_dino` selects
ON = {"transformer": {"one_to_many_groups": GROUPS, "one_to_many_queries": QUERIES}}


def batch():
    boxes = [[4, 4, 40, 50], [30, 10, 70, 60]]
    return [record(image(96, 80), boxes, (1, 4)), record(image(64, 96, 1), boxes[:1], (2,))]


def losses_of(model):
    torch.manual_seed(0)
    return model.train()(batch())


@pytest.fixture(scope="module")
def models():
    return small_dino(), small_dino(**ON)


def test_the_ordinary_and_the_denoising_queries_do_not_notice_the_groups(models):
    plain, grouped = (losses_of(model) for model in models)
    assert {name for name in grouped if "_o2m" in name} == grouped.keys() - plain.keys()
    for name, loss in plain.items():
        torch.testing.assert_close(grouped[name], loss, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.parametrize("dn_number", [12, 0])
def test_every_group_is_trained_as_it_would_be_alone(dn_number):
    grouped = small_dino(**ON, dn_number=dn_number)
    together, alone = losses_of(grouped), []
    for g in range(GROUPS):
        model = small_dino(transformer={**ON["transformer"], "one_to_many_groups": 1}, dn_number=dn_number)
        own = grouped.transformer.group_embed.weight[g * QUERIES : (g + 1) * QUERIES]
        model.transformer.group_embed.weight.data.copy_(own)
        alone.append(losses_of(model))
    names = [name for name in together if "_o2m" in name]
    assert names == [f"{loss}_o2m{layer}" for layer in ("_0", "") for loss in ("loss_class", "loss_bbox", "loss_giou")]
    for name in names:
        assert len({losses[name].item() for losses in alone}) == GROUPS
        torch.testing.assert_close(together[name], torch.stack([losses[name] for losses in alone]).mean())


def test_evaluation_is_the_same_to_the_bit_without_the_groups_weights(models):
    plain, grouped = (copy.deepcopy(model).eval() for model in models)
    extra = grouped.state_dict().keys() - plain.state_dict().keys()
    assert extra == {"transformer.group_embed.weight"}
    nn.init.constant_(grouped.transformer.group_embed.weight, torch.nan)
    with torch.no_grad():
        for one, other in zip(plain(batch()), grouped(batch()), strict=True):
            assert torch.equal(one["instances"].scores, other["instances"].scores)
            assert torch.equal(one["instances"].pred_boxes.tensor, other["instances"].pred_boxes.tensor)


def test_the_other_initial_weights_are_those_of_a_detector_without_groups():
    states = []
    for transformer in ({}, {"one_to_many_groups": 2}):
        torch.manual_seed(0)
        states.append(tiny_dino(transformer=transformer).state_dict())
    assert all(torch.equal(states[1][name], value) for name, value in states[0].items())


def test_a_batch_without_objects_gives_the_groups_a_gradient():
    model = small_dino(**ON).train()
    sum(model([record(image(96, 80), [], ())]).values()).backward()
    assert model.transformer.group_embed.weight.grad.abs().max() > 0


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"one_to_many_groups": 2, "learnt_init_query": False}, "learnt_init_query"),
        ({"one_to_many_groups": 2, "one_to_many_queries": 31}, "1 to 30"),
        ({"one_to_many_groups": -1}, "one_to_many_groups=-1"),
    ],
)
def test_groups_that_cannot_be_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        tiny_dino(transformer=arguments)


def test_groups_without_a_criterion_for_them_are_refused():
    model = small_dino(**ON)
    parts = {name: getattr(model, name) for name in ("backbone", "position_embedding", "neck", "transformer")}
    with pytest.raises(ValueError, match="one_to_many_groups=3: Linear"):
        type(model)(**parts, embed_dim=32, num_classes=5, num_queries=12, criterion=nn.Linear(1, 1))
