"""Every recipe loads, instantiates and dumps; one override changes all that follows from it."""

import ast
import functools
import re

import pytest
import torch
from detectron2.config import LazyConfig, instantiate
from omegaconf import OmegaConf
from real_recipes import marked

from dinov2_detrex import get_config
from dinov2_detrex.config import recipes_dir
from dinov2_detrex.config.loading import load
from dinov2_detrex.config.saving import plain, without_anchors, write_config

ROOT = recipes_dir()
ALL = sorted(
    str(p.relative_to(ROOT)) for p in [*(ROOT / "configs").rglob("*.py"), *(ROOT / "projects").rglob("configs/**/*.py")]
)
RECIPES = [name for name in ALL if name.startswith("projects/") and "/models/" not in name]
DINO_RECIPES = [name for name in RECIPES if name.startswith("projects/dino_dinov2/")]
B_12EP = "projects/dino_dinov2/configs/COCO/dino_dinov2_b_12ep.py"


def _load(name):
    return LazyConfig.load(str(ROOT / name))


def _build_model(cfg):
    """The whole model with weights off, on the meta device: real modules, no memory."""
    cfg.model.backbone.net.pretrained = False
    if "device" in cfg.model:  # of detrex's own detectors, which keep it
        cfg.model.device = "cpu"
    with torch.device("meta"):
        return instantiate(cfg.model)


@functools.cache
def _model_of(name):
    """The model of a recipe as it stands; for tests that do not change it."""
    return _build_model(_load(name))


def _savable_alone(name):
    """detectron2's own `save` looks up references; those of these two lead into the recipe that takes them."""
    if name in ("configs/common/schedule.py", "configs/common/data/own.py"):
        return pytest.param(name, marks=pytest.mark.fallback("detectron2"))
    return marked(name)


@pytest.mark.parametrize("name", map(_savable_alone, ALL))
def test_config_dumps_to_yaml_that_loads_equal(name, tmp_path):
    LazyConfig.save(plain(_load(name)), str(tmp_path / "config.yaml"))
    assert not (tmp_path / "config.yaml.pkl").exists()  # written only where the YAML could not be loaded back
    again = LazyConfig.load(str(tmp_path / "config.yaml"))
    LazyConfig.save(again, str(tmp_path / "again.yaml"))
    assert (tmp_path / "again.yaml").read_text() == (tmp_path / "config.yaml").read_text()


def test_a_config_with_typed_sections_is_plain_yaml_whoever_saves_it(tmp_path):
    cfg = load(B_12EP, ["train.amp.dtype=bf16", "train.device=cuda:1"])
    LazyConfig.save(cfg, str(tmp_path / "config.yaml"))
    text = (tmp_path / "config.yaml").read_text()
    assert "TrainOptions" not in text and not (tmp_path / "config.yaml.pkl").exists()
    again = LazyConfig.load(str(tmp_path / "config.yaml"))
    assert (again.train.amp.dtype, again.train.device, again.train.max_iter) == ("bfloat16", "cuda:1", 90_000)


@pytest.mark.parametrize("name", map(marked, RECIPES))
def test_the_config_that_a_run_saves_is_a_recipe_for_the_same_run(name, tmp_path):
    first = write_config(load(name, []), str(tmp_path / "first"))
    again = load(str(first), [])
    assert write_config(again, str(tmp_path / "again")).read_text() == first.read_text()
    assert instantiate(again.lr_multiplier)(0.5) == instantiate(_load(name).lr_multiplier)(0.5)
    assert not OmegaConf.is_interpolation(again.model, "num_classes") and "${" not in first.read_text()


def test_a_value_that_is_referred_to_twice_is_written_twice():
    norm = "!!python/name:torch.nn.LayerNorm ''"
    shared = f"a: &id001 [p3, p4]\nb:\n  c: *id001\nd: &id002 {norm}\ne: *id002\n"
    assert without_anchors(shared) == f"a: [p3, p4]\nb:\n  c: [p3, p4]\nd: {norm}\ne: {norm}\n"


def test_the_saved_config_builds_the_same_model(tmp_path):
    again = load(str(write_config(load(B_12EP, []), str(tmp_path))), [])
    state, wanted = _build_model(again).state_dict(), _model_of(B_12EP).state_dict()
    assert {key: value.shape for key, value in state.items()} == {key: value.shape for key, value in wanted.items()}


@pytest.mark.parametrize("name", map(marked, RECIPES))
def test_recipe_resolves_and_its_parts_instantiate(name):
    cfg = _load(name)
    OmegaConf.resolve(cfg.copy())
    cfg.optimizer.params.model = _model_of(name)
    optimizer = instantiate(cfg.optimizer)
    assert sum(len(group["params"]) for group in optimizer.param_groups) > 0
    multiplier = instantiate(cfg.lr_multiplier)
    assert 0 < multiplier(0.5) <= 1


@pytest.mark.parametrize("name", DINO_RECIPES)
def test_recipe_levels_agree_between_pyramid_neck_and_transformer(name):
    model = _model_of(name)
    shapes = model.backbone.output_shape()
    assert list(shapes) == list(model.neck.in_features)
    assert len(model.neck.convs) == len(shapes) == model.transformer.num_feature_levels
    assert [conv.conv.in_channels for conv in model.neck.convs] == [shape.channels for shape in shapes.values()]


def test_patch_size_is_one_override():
    cfg = LazyConfig.apply_overrides(_load(B_12EP), ["model.backbone.net.patch_size=14"])
    model = _build_model(cfg)
    assert cfg.model.backbone.net.img_size == 518
    assert [shape.stride for shape in model.backbone.output_shape().values()] == [7, 14, 28, 56]


def test_model_size_is_one_override():
    cfg = LazyConfig.apply_overrides(_load(B_12EP), ["model.backbone.net.model_name=vit_small_patch14_dinov2.lvd142m"])
    model = _build_model(cfg)
    assert model.backbone.net.output_shape()["p-1"].channels == 384


def test_width_of_the_detector_is_one_override():
    model = _build_model(LazyConfig.apply_overrides(_load(B_12EP), ["model.embed_dim=192"]))
    assert {conv.conv.out_channels for conv in model.neck.convs} == {192}
    assert model.transformer.level_embeds.shape == (4, 192)


def test_epochs_and_batch_size_give_the_iterations():
    cfg = _load(B_12EP)
    assert (cfg.train.max_iter, cfg.train.eval_period, cfg.train.checkpointer.period) == (90_000, 7_500, 7_500)
    LazyConfig.apply_overrides(
        cfg, ["schedule.epochs=24", "schedule.decay_epoch=20", "dataloader.train.total_batch_size=32"]
    )
    assert (cfg.train.max_iter, cfg.train.eval_period) == (90_000, 3_750)
    multiplier = instantiate(cfg.lr_multiplier)
    assert (multiplier(0.83), multiplier(0.84)) == (1.0, pytest.approx(0.1))


def test_a_run_on_few_images_is_stretched_and_its_schedule_with_it():
    few = ["schedule.images_per_epoch=200", "schedule.min_iters=3000"]
    cfg = LazyConfig.apply_overrides(_load(B_12EP), few)
    assert (cfg.train.max_iter, cfg.train.eval_period) == (3_000, 60)  # 12 epochs are 150
    multiplier = instantiate(cfg.lr_multiplier)
    assert (multiplier(0.91), multiplier(0.92)) == (1.0, pytest.approx(0.1))
    cfg = LazyConfig.apply_overrides(_load(B_12EP), ["schedule.min_iters=3000"])
    assert (cfg.train.max_iter, cfg.train.eval_period) == (90_000, 7_500)


def test_class_count_is_one_override():
    model = _build_model(LazyConfig.apply_overrides(_load(B_12EP), ["model.num_classes=7"]))
    assert model.class_embed[0].out_features == 7 and model.criterion.num_classes == 7
    assert model.label_enc.num_embeddings == 7


def test_reference_recipe_is_the_published_setting():
    cfg = _load(B_12EP)
    net, transformer = cfg.model.backbone.net, cfg.model.transformer
    assert (net.model_name, net.patch_size, net.freeze) == ("vit_base_patch14_dinov2.lvd142m", 16, True)
    assert (transformer.encoder.num_layers, transformer.decoder.num_layers, cfg.model.num_queries) == (6, 6, 900)
    assert (cfg.optimizer.lr, cfg.optimizer.weight_decay, cfg.dataloader.train.total_batch_size) == (1e-4, 1e-4, 16)


@pytest.mark.parametrize("name", map(marked, RECIPES))
def test_every_override_that_a_recipe_tells_of_can_be_set_in_it(name):
    told = re.findall(r"(?:\w+\.)+\w+=[^\s`;)]+", ast.get_docstring(ast.parse((ROOT / name).read_text())))
    load(str(ROOT / name), told)  # refuses what does not parse and what it does not have


def test_get_config_gives_independent_copies_and_lists_what_there_is():
    get_config("common/train.py").train.max_iter = 1
    assert get_config("common/train.py").train.max_iter == 90_000
    with pytest.raises(RuntimeError, match="common/optim.py"):
        get_config("common/absent.py")
