"""The recipes of detectron2's R-CNNs on DINOv2: what makes each of them that recipe, and a step at a reduced size."""

import functools
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from detectron2.config import LazyConfig, instantiate
from detectron2.structures import BoxMode
from PIL import Image
from pycocotools import mask as coco_mask
from tiny_rcnn import TINY_RCNN

from dinov2_detrex.config import recipes_dir
from dinov2_detrex.config.loading import load
from dinov2_detrex.config.overrides import apply_overrides
from dinov2_detrex.engine import is_fallback
from dinov2_detrex.runtime.errors import UsageError

PROJECT = recipes_dir() / "projects/rcnn_dinov2/configs"
NAMES = sorted(path.stem for path in (PROJECT / "COCO").glob("*.py"))
CUSTOM = PROJECT / "custom/mask_rcnn_dinov2_b_custom.py"
real = pytest.mark.real("detectron2")


def recipe(name, overrides=()):
    return apply_overrides(LazyConfig.load(str(PROJECT / "COCO" / f"{name}.py")), list(overrides))


@functools.cache
def full_size(name):
    """The recipe's model as it is, on the meta device: real modules, no memory."""
    cfg = recipe(name, ["model.backbone.net.pretrained=false"])
    with torch.device("meta"):
        return instantiate(cfg.model)


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    """Two records with pictures of different sizes; an object with a polygon and a crowd in each."""
    folder, found = tmp_path_factory.mktemp("coco"), []
    for i, (height, width) in enumerate([(90, 120), (130, 100)]):
        pixels = np.random.default_rng(i).integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
        crowd = coco_mask.encode(np.asfortranarray(np.ones((height, width), dtype=np.uint8)))
        common = {"bbox_mode": BoxMode.XYWH_ABS, "category_id": 3 + i}
        triangle = {"bbox": [4, 3, 80, 70], "segmentation": [[4, 3, 84, 3, 4, 73]], "iscrowd": 0}
        annotations = [
            triangle | common,
            {"bbox": [0, 0, width, height], "segmentation": crowd, "iscrowd": 1} | common,
        ]
        file_name = str(folder / f"{i}.png")
        found.append({"file_name": file_name, "height": height, "width": width, "annotations": annotations})
    return found


def step(name, records):
    """One forward and backward of the reduced recipe, on what its own mapper makes of the records."""
    cfg = recipe(name, TINY_RCNN)
    torch.manual_seed(0)
    np.random.seed(1)
    model = instantiate(cfg.model).train()
    mapper = instantiate(cfg.dataloader.train.mapper)
    batch = [mapper(record) for record in records]
    from detectron2.utils.events import EventStorage

    with EventStorage():
        losses = model(batch)
    sum(losses.values()).backward()
    return SimpleNamespace(cfg=cfg, model=model, batch=batch, losses=losses)


@pytest.fixture(scope="module", params=["mask_rcnn_dinov2_b_100ep", "cascade_mask_rcnn_dinov2_b_100ep"])
def stepped(request, records):
    return step(request.param, records)


@real
def test_a_step_gives_finite_losses_of_boxes_and_masks_and_a_gradient_to_all_that_trains(stepped):
    stages = [f"_stage{i}" for i in range(3)] if "box_heads" in stepped.cfg.model.roi_heads else [""]
    of_boxes = {name + stage for name in ("loss_cls", "loss_box_reg") for stage in stages}
    assert {*stepped.losses} == of_boxes | {"loss_mask", "loss_rpn_cls", "loss_rpn_loc"}
    assert all(torch.isfinite(loss) for loss in stepped.losses.values()) and stepped.losses["loss_mask"] > 0
    without = [n for n, p in stepped.model.named_parameters() if p.requires_grad and p.grad is None]
    assert not without  # DDP would wait for them
    vit = stepped.model.backbone.net.vit
    assert vit.patch_embed.proj.weight.grad.abs().max() > 0 and vit.pos_embed.grad.abs().max() > 0


@real
def test_crowds_are_left_out_and_boxes_are_those_of_the_cropped_masks(stepped):
    for record in stepped.batch:
        instances = record["instances"]
        assert len(instances) <= 1 and max(record["image"].shape[-2:]) <= 64
        if len(instances):
            (polygon,) = instances.gt_masks.polygons[0]
            xs, ys = polygon[0::2], polygon[1::2]
            np.testing.assert_allclose(
                instances.gt_boxes.tensor[0], [xs.min(), ys.min(), xs.max(), ys.max()], atol=1e-3
            )


@real
@pytest.mark.parametrize("name", NAMES)
def test_the_backbone_sees_rgb_with_the_statistics_that_dinov2_was_trained_on(name):
    cfg = recipe(name)
    mappers = [cfg.dataloader[part].mapper for part in ("train", "test")]
    assert {mapper.img_format for mapper in mappers} == {cfg.model.input_format} == {"RGB"}
    model = full_size(name)
    mean, std = torch.tensor(cfg.model.pixel_mean), torch.tensor(cfg.model.pixel_std)
    torch.testing.assert_close(mean / 255, torch.tensor([0.485, 0.456, 0.406]), rtol=0, atol=1e-4)
    torch.testing.assert_close(std / 255, torch.tensor([0.229, 0.224, 0.225]), rtol=0, atol=1e-4)
    assert model.pixel_mean.shape == model.pixel_std.shape == (3, 1, 1) and model.input_format == "RGB"


@real
@pytest.mark.parametrize("name", NAMES)
def test_the_model_is_of_the_size_in_its_name(name):
    model = full_size(name)
    depth, channels, blocks = (24, 1024, [5, 11, 17, 23]) if "_l_" in name else (12, 768, [2, 5, 8, 11])
    vit = model.backbone.net.vit
    assert len(vit.blocks) == depth and model.backbone.net.output_shape()["p-1"].channels == channels
    assert [i for i, block in enumerate(vit.blocks) if not block.attn._forward_pre_hooks] == blocks
    assert [shape.stride for shape in model.backbone.output_shape().values()] == [4, 8, 16, 32, 64]
    assert type(model.roi_heads).__name__ == ("CascadeROIHeads" if "cascade" in name else "StandardROIHeads")


@real
@pytest.mark.parametrize("name", NAMES)
def test_heads_are_those_of_vitdet(name):
    heads = full_size(name).roi_heads
    for head in heads.box_head if "cascade" in name else [heads.box_head]:
        assert len(head.conv_norm_relus) == 4 and [layer.out_features for layer in head.fcs] == [1024]
    assert len(full_size(name).proposal_generator.rpn_head.conv) == 2 and heads.mask_on


@real
@pytest.mark.parametrize("name", NAMES)
def test_the_schedule_is_vitdets_over_100_epochs(name):
    cfg = recipe(name)
    assert cfg.train.max_iter == 100 * 120_000 / 64 and cfg.dataloader.train.total_batch_size == 64
    rate = instantiate(cfg.lr_multiplier)
    assert [rate(at) for at in (0.5, 0.888, 0.89, 0.962, 0.964)] == pytest.approx([1, 1, 0.1, 0.1, 0.01])
    assert rate(0) == pytest.approx(0.001)


@real
@pytest.mark.parametrize("name", NAMES)
def test_rates_decay_towards_the_image_and_positions_do_not_decay(name):
    cfg, model = recipe(name), full_size(name)
    cfg.optimizer.params.model = model
    group_of = {id(p): group for group in instantiate(cfg.optimizer).param_groups for p in group["params"]}
    groups = {n: group_of[id(p)] for n, p in model.named_parameters()}
    decay, depth = (0.8, 24) if "_l_" in name else (0.7, 12)
    vit = "backbone.net.timm_model.model."
    for i in (0, depth - 1):
        assert groups[f"{vit}blocks.{i}.attn.qkv.weight"]["lr"] == pytest.approx(1e-4 * decay ** (depth - i))
    assert groups["roi_heads.mask_head.deconv.weight"]["lr"] == 1e-4
    assert groups["roi_heads.mask_head.deconv.weight"]["weight_decay"] == 0.1
    assert groups[f"{vit}pos_embed"]["weight_decay"] == groups[f"{vit}cls_token"]["weight_decay"] == 0
    assert groups[f"{vit}blocks.0.norm1.weight"]["weight_decay"] == 0


@real
def test_image_size_is_one_override():
    cfg = recipe(NAMES[0], ["dataloader.image.size=640"])
    _, resize, crop = cfg.dataloader.train.mapper.augmentation
    assert (resize.target_height, *crop.crop_size, cfg.model.backbone.square_pad) == (640,) * 4


@real
def test_the_pyramid_has_the_weights_of_detectron2s_own_and_tiles_images_of_any_size():
    cfg = recipe(NAMES[-1], ["model.backbone.net.pretrained=false", "dataloader.image.size=600"])
    own = full_size(NAMES[-1]).backbone
    cfg.model.backbone._target_ = "detectron2.modeling.SimpleFeaturePyramid"
    with torch.device("meta"):
        theirs = instantiate(cfg.model.backbone)
    assert own.output_shape() == theirs.output_shape()
    shapes = ({k: v.shape for k, v in backbone.state_dict().items()} for backbone in (own, theirs))
    assert next(shapes) == next(shapes)
    assert own.padding_constraints["size_divisibility"] == 64


@real
@pytest.mark.parametrize("name", NAMES)
def test_results_of_a_run_lie_in_its_folder(name):
    cfg = recipe(name)
    assert cfg.train.output_dir == cfg.dataloader.evaluator.output_dir == f"./output/{name}"
    assert cfg.dataloader.evaluator.dataset_name == cfg.dataloader.test.dataset.names == "coco_2017_val"


@pytest.mark.parametrize("path", sorted(PROJECT.glob("[!m]*/*.py")), ids=lambda path: path.stem)
def test_header_gives_launch_command_needs_and_what_to_expect(path):
    header = path.read_text().split('"""')[1]
    assert f"python tools/train_net.py --config-file {path.relative_to(recipes_dir())}" in header
    for words in ("Needs the real detectron2", "ardware it is meant for: ", "ot yet trained"):
        assert words in header


@pytest.mark.fallback("detectron2")
def test_without_the_real_detectron2_a_recipe_answers_in_one_line():
    assert is_fallback("detectron2")
    with pytest.raises(UsageError) as raised:
        load(str(PROJECT / "COCO" / f"{NAMES[0]}.py"), [])
    message = str(raised.value)
    assert "\n" not in message and "the real detectron2 has it" in message
