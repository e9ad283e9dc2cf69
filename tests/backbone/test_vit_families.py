"""A family's record says of its models what timm's own code says, so that what reads it treats every part rightly."""

import dataclasses

import pytest
import timm
import torch
from tiny_vits import PLAIN, TINY, random_images, tiny_vit

from dinov2_detrex.backbone import TimmBackbone, vit_families
from dinov2_detrex.backbone.vit_families import DISTILLED, EVA, FAMILIES, VISION_TRANSFORMER, as_plain_vit, family_of
from dinov2_detrex.backbone.weight_layouts import META_DINOV2

MODELS = {  # one or more of each family
    "test_vit": VISION_TRANSFORMER,
    "vit_small_patch14_reg4_dinov2": VISION_TRANSFORMER,
    "vit_base_patch16_clip_224": VISION_TRANSFORMER,
    "deit3_small_patch16_224": VISION_TRANSFORMER,
    "deit_tiny_distilled_patch16_224": DISTILLED,
    "eva02_tiny_patch14_224": EVA,
    "vit_small_patch16_dinov3": EVA,
    "vit_pe_spatial_tiny_patch16_512": EVA,
}


@pytest.mark.parametrize("name", MODELS)
def test_every_part_of_a_model_is_before_in_or_after_its_blocks(name):
    vit = timm.create_model(name, depth=1)
    family = family_of(as_plain_vit(vit))
    parts = {key for key, _ in (*vit.named_children(), *vit.named_parameters(recurse=False))}
    assert family is MODELS[name]
    assert parts <= {"blocks", *family.before_blocks, *family.after_blocks}
    assert not {"blocks", *family.after_blocks} & set(family.before_blocks)
    assert set(family.optional) <= set(family.before_blocks)


def test_every_family_is_tried():
    assert set(map(id, MODELS.values())) == set(map(id, FAMILIES))


@pytest.mark.parametrize("name", ["test_vit", "eva02_tiny_patch14_224"])
def test_what_stands_before_the_blocks_has_the_name_before_them(name):
    """Perturb each parameter: what leaves the tokens that enter the first block alone cannot be before it."""
    vit = timm.create_model(name, depth=1).eval()
    entering = []
    vit.blocks[0].register_forward_pre_hook(lambda block, args: entering.append(args[0]))
    images = random_images(1, 3, *vit.patch_embed.img_size)
    for key, parameter in vit.named_parameters():
        entering.clear()
        with torch.no_grad():
            vit(images)
            parameter.add_(1.0)
            vit(images)
        moved = not torch.equal(*entering)
        assert moved == (key.split(".")[0] in family_of(as_plain_vit(vit)).before_blocks), key


@pytest.mark.parametrize("name", ["resnet18", "beit_base_patch16_224", "swin_tiny_patch4_window7_224"])
def test_other_models_are_of_no_family(name):
    with torch.device("meta"):
        assert as_plain_vit(timm.create_model(name)) is None


def test_a_subclass_that_walks_its_blocks_itself_is_of_no_family():
    class Other(timm.models.VisionTransformer):
        def forward_intermediates(self, *args, **kwargs):
            raise NotImplementedError

    assert as_plain_vit(Other(img_size=32, embed_dim=8, depth=1, num_heads=1)) is None


def test_positions_load_alike_whatever_the_report_calls_their_layout(tmp_path, monkeypatch):
    """4 x 16 cells are as many as 8 x 8: only a prefix tells that they are a training checkpoint's."""
    source = tiny_vit(img_size=(56, 224))
    state = {**source.vit.state_dict(), "mask_token": torch.zeros(1, 64)}  # Meta's names
    torch.save({f"teacher.backbone.{key}": value for key, value in state.items()}, tmp_path / "checkpoint.pth")
    renamed = dataclasses.replace(META_DINOV2, name="the original")
    monkeypatch.setattr(
        vit_families, "FAMILIES", (dataclasses.replace(VISION_TRANSFORMER, layouts=(renamed,)), *FAMILIES)
    )
    backbone = TimmBackbone(PLAIN, checkpoint_path=str(tmp_path / "checkpoint.pth"), **TINY, img_size=(56, 224))
    assert "the original inside a checkpoint, under 'teacher.backbone.'" in backbone.weights_report
    assert torch.equal(backbone.vit.pos_embed, source.vit.pos_embed)
