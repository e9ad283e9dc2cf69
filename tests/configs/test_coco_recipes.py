"""Every COCO recipe trains: a step at a reduced size, on its own augmentation, with what makes it that recipe."""

import functools
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from detectron2.config import LazyConfig, instantiate
from detectron2.structures import BoxMode
from PIL import Image

from dinov2_detrex.config import recipes_dir
from dinov2_detrex.config.overrides import apply_overrides

FOLDER = recipes_dir() / "projects/dino_dinov2/configs/COCO"
NAMES = sorted(path.stem for path in FOLDER.glob("*.py"))
FINE_TUNED = ("dino_dinov2_b_ft_12ep", "dino_dinov2_b_1024_12ep")
PLUS = [name for name in NAMES if "_plus_" in name]
JITTERED = ("dino_dinov2_b_518_12ep", "dino_dinov2_b_1024_12ep")

REDUCED = [  # as a user would make it small: every part stays, and every switch that the recipe sets
    "model.backbone.net.pretrained=False",
    "model.backbone.net.depth=3",
    "model.backbone.net.embed_dim=48",
    "model.backbone.net.num_heads=3",
    "model.embed_dim=32",
    "model.num_queries=20",
    "model.dn_number=6",
    "model.transformer.encoder.num_heads=4",
    "model.transformer.encoder.feedforward_dim=64",
    "model.transformer.encoder.num_layers=1",
    "model.transformer.decoder.num_layers=2",
    "dataloader.image.size=96",
]
SMALL_WINDOWS = ["model.backbone.net.window_size=2"]  # cells, of the 6 x 6 that 96 pixels give


def load(name, overrides=()):
    return apply_overrides(LazyConfig.load(str(FOLDER / f"{name}.py")), list(overrides))


def full_size(name, overrides=()):
    """The recipe's model as it is, on the meta device: real modules, no memory."""
    cfg = load(name, ["model.backbone.net.pretrained=False", *overrides])
    with torch.device("meta"):
        return instantiate(cfg.model)


@functools.cache
def recipe(name):
    """The recipe as it is, and its model."""
    return SimpleNamespace(cfg=load(name), model=full_size(name))


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    """Two COCO-like records with pictures of different sizes."""
    folder, found = tmp_path_factory.mktemp("coco"), []
    for i, (height, width) in enumerate([(90, 120), (130, 100)]):
        pixels = np.random.default_rng(i).integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
        annotations = [
            {"bbox": [4.5, 3, 80, 70], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 3 + i, "iscrowd": 0},
            {"bbox": [30, 20.5, 40, 60], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 70, "iscrowd": 0},
        ]
        file_name = str(folder / f"{i}.png")
        found.append({"file_name": file_name, "height": height, "width": width, "annotations": annotations})
    return found


class Calls:
    """Counts how often modules run, and the batch that each of them saw."""

    def __init__(self):
        self.batches = {}

    def watch(self, name, module):
        self.batches[name] = []
        module.register_forward_pre_hook(lambda module, args: self.batches[name].append(args[0].shape[0]))


def step(name, records):
    """One forward and backward of the reduced recipe, on what its own mapper makes of the records."""
    windowed = "window_size" in recipe(name).cfg.model.backbone.net
    cfg = load(name, REDUCED + (SMALL_WINDOWS if windowed else []))
    torch.manual_seed(0)
    np.random.seed(1)
    model = instantiate(cfg.model).train()
    mapper = instantiate(cfg.dataloader.train.mapper)
    batch = [mapper(record) for record in records]
    vit, transformer, calls = model.backbone.net.vit, model.transformer, Calls()
    for i, block in enumerate(vit.blocks):
        calls.watch(f"block {i}", block)
        calls.watch(f"attention {i}", block.attn)
    for i, layer in enumerate([*transformer.encoder.layers, *transformer.decoder.layers]):
        calls.watch(f"layer {i}", layer)
    losses = model(batch)
    sum(losses.values()).backward()
    return SimpleNamespace(cfg=cfg, model=model, vit=vit, batch=batch, losses=losses, calls=calls.batches)


@pytest.fixture(scope="module", params=NAMES)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def stepped(name, records):
    return step(name, records)


def test_a_step_gives_finite_losses_of_every_layer_and_a_gradient_to_all_that_trains(name, stepped):
    sizes = [tuple(record["image"].shape[-2:]) for record in stepped.batch]
    assert sizes[0] != sizes[1] and sum(len(record["instances"]) for record in stepped.batch) > 1
    assert len(stepped.losses) == 3 * (2 + 1 + 2)  # decoder layers, encoder, denoising parts
    assert all(torch.isfinite(loss) for loss in stepped.losses.values())
    without = [n for n, p in stepped.model.named_parameters() if p.requires_grad and p.grad is None]
    assert not without  # DDP would wait for them
    finite = [torch.isfinite(p.grad).all() for p in stepped.model.parameters() if p.grad is not None]
    assert torch.stack(finite).all()
    for part in (stepped.model.backbone.simfp_4, stepped.model.neck, stepped.model.transformer.encoder):
        assert any(p.grad.abs().max() > 0 for p in part.parameters())


def test_what_is_frozen_is_what_the_recipe_says(name, stepped):
    trained = {n for n, p in stepped.vit.named_parameters() if p.requires_grad}
    assert trained == {n for n, p in stepped.vit.named_parameters() if p.grad is not None}
    if name not in FINE_TUNED:
        assert not trained and not any(module.training for module in stepped.vit.modules())
        return
    assert stepped.vit.blocks.training and not stepped.vit.patch_embed.training
    assert {n for n, _ in stepped.vit.named_parameters()} - trained == {
        "pos_embed",
        "patch_embed.proj.weight",
        "patch_embed.proj.bias",
    }


def test_learning_rates_decay_towards_the_image_in_the_fine_tuned_recipes_alone(name, stepped):
    cfg = stepped.cfg
    cfg.optimizer.params.model = stepped.model
    optimizer = instantiate(cfg.optimizer)
    rate_of = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    rates = {n: rate_of[id(p)] for n, p in stepped.model.named_parameters() if p.requires_grad}
    vit = {n.split("timm_model.model.")[1]: rate for n, rate in rates.items() if "timm_model." in n}
    assert {rate for n, rate in rates.items() if "timm_model." not in n} == {cfg.optimizer.lr} == {1e-4}
    if name not in FINE_TUNED:
        assert not vit
        return
    assert vit["cls_token"] == pytest.approx(1e-4 * 0.7**4)
    for i in range(3):
        assert vit[f"blocks.{i}.attn.qkv.weight"] == pytest.approx(1e-4 * 0.7 ** (3 - i))


def test_the_reduced_vit_has_blocks_of_the_same_kind(name, stepped):
    def kinds(model):
        block = model.backbone.net.vit.blocks[0]
        return type(block), type(block.attn), type(block.mlp)

    assert kinds(stepped.model) == kinds(recipe(name).model)
    assert ("Glu" in type(stepped.vit.blocks[0].mlp).__name__) == (name == "dino_dinov2_g_12ep")
    registers = {"dino_dinov2_b_reg_12ep": 4, "dino_dinov3_b_12ep": 4}.get(name, 0)
    assert stepped.vit.num_prefix_tokens == 1 + registers
    assert (getattr(stepped.vit, "rope", None) is not None) == (name == "dino_dinov3_b_12ep")


def test_layers_are_recomputed_in_the_backward_pass_where_the_recipe_says(name, stepped):
    runs = {part: len(batches) for part, batches in stepped.calls.items()}
    assert {runs[f"block {i}"] for i in range(3)} == {2 if name in FINE_TUNED else 1}
    assert {runs[f"layer {i}"] for i in range(3)} == {2 if name == "dino_dinov2_g_12ep" else 1}


def test_attention_is_windowed_in_the_1024_recipe_alone(name, stepped):
    windows = [max(stepped.calls[f"attention {i}"]) // len(stepped.batch) for i in range(3)]
    if name == "dino_dinov2_b_1024_12ep":
        assert windows[0] == windows[1] > 1 and windows[2] == 1
    else:
        assert windows == [1, 1, 1]


def test_levels_and_patches_survive_the_reduction(name, stepped):
    strides = [shape.stride for shape in stepped.model.backbone.output_shape().values()]
    patch_14 = ("dino_dinov2_b_p14_12ep", "dino_dinov2_b_518_12ep")
    expected = [7, 14, 28, 56] if name in patch_14 else [8, 16, 32, 64]
    assert strides == ([4] if name == "dino_dinov2_b_5scale_12ep" else []) + expected
    assert stepped.model.transformer.num_feature_levels == len(strides) == len(stepped.model.neck.convs)


# ---- the recipes at full size


@pytest.mark.parametrize(
    "name, channels, depth",
    [("s_12ep", 384, 12), ("b_12ep", 768, 12), ("l_12ep", 1024, 24), ("g_12ep", 1536, 40), ("b_1024_12ep", 768, 12)],
)
def test_the_vit_is_of_the_size_in_the_name(name, channels, depth):
    net = recipe(f"dino_dinov2_{name}").model.backbone.net
    assert net.output_shape()["p-1"].channels == channels and len(net.vit.blocks) == depth


@pytest.mark.parametrize("name, cells", [("dino_dinov2_b_p14_12ep", 37), ("dino_dinov2_b_12ep", 37)])
def test_positions_of_the_checkpoint_stay_as_they_are(name, cells):
    assert recipe(name).model.backbone.net.vit.patch_embed.grid_size == (cells, cells)


@pytest.mark.parametrize(
    "model_name, patch_size, img_size",
    [
        ("vit_small_patch14_dinov2.lvd142m", 16, 592),
        ("vit_small_patch14_reg4_dinov2.lvd142m", 14, 518),
        ("vit_small_patch16_dinov3.lvd1689m", 16, 256),
        ("eva02_tiny_patch14_224.mim_in22k", 16, 256),
    ],
)
def test_image_size_of_the_positions_follows_from_the_models_name_and_patch(model_name, patch_size, img_size):
    overrides = [f"model.backbone.net.model_name={model_name}", f"model.backbone.net.patch_size={patch_size}"]
    cfg = load("dino_dinov2_b_12ep", overrides)
    assert cfg.model.backbone.net.img_size == img_size
    model = full_size("dino_dinov2_b_12ep", overrides)
    native = model.backbone.net.vit.patch_embed.grid_size
    assert native == (img_size // patch_size,) * 2


def test_windows_tile_the_1024_pixel_image_and_every_third_block_is_global():
    cfg, model = recipe("dino_dinov2_b_1024_12ep").cfg, recipe("dino_dinov2_b_1024_12ep").model
    blocks = model.backbone.net.vit.blocks
    assert [i for i, block in enumerate(blocks) if not block.attn._forward_pre_hooks] == [2, 5, 8, 11]
    assert 1024 // cfg.model.backbone.net.patch_size % cfg.model.backbone.net.window_size == 0


def test_layer_wise_decay_follows_the_depth_of_another_model():
    model_name = "model.backbone.net.model_name=vit_large_patch14_dinov2.lvd142m"
    factor = instantiate(load("dino_dinov2_b_ft_12ep", [model_name]).optimizer.params.lr_factor_func)
    assert factor("backbone.net.timm_model.model.blocks.23.attn.qkv.weight") == pytest.approx(0.7)
    assert factor("backbone.net.timm_model.model.blocks.0.attn.qkv.weight") == pytest.approx(0.7**24)


@pytest.mark.parametrize("name, blocks", [("s", [3, 7, 11]), ("b", [3, 7, 11]), ("l", [7, 15, 23])])
def test_the_plus_recipes_take_a_layer_for_each_level_and_cost_only_its_norm(name, blocks):
    cfg, model = recipe(f"dino_dinov2_{name}_plus_12ep").cfg, recipe(f"dino_dinov2_{name}_plus_12ep").model
    assert cfg.model.backbone.net.out_indices == blocks
    assert list(model.backbone.net.output_shape()) == [f"p{i}" for i in blocks]
    reference = recipe(f"dino_dinov2_{name}_12ep").model.state_dict().keys()
    assert model.state_dict().keys() - reference == {
        f"backbone.fusion.norms.{i}.{kind}" for i in range(3) for kind in ("weight", "bias")
    }


@pytest.mark.parametrize("name", PLUS)
def test_the_plus_recipes_keep_the_rate_for_half_the_run(name):
    cfg, epochs = recipe(name).cfg, int(name[-4:-2])
    assert cfg.train.max_iter == epochs * 7500
    multiplier = instantiate(cfg.lr_multiplier)
    assert [multiplier(where) for where in (0.02, 0.49)] == [1.0, 1.0]
    assert multiplier(0.75) == pytest.approx(0.505, abs=0.01) and multiplier(1 - 1e-9) == pytest.approx(0.01, abs=1e-4)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in PLUS])
def test_schedule_is_the_one_in_the_name(name):
    cfg = recipe(name).cfg
    epochs, drop = {"24ep": (24, 20), "50ep": (50, 40)}.get(name.rpartition("_")[2], (12, 11))
    assert cfg.train.max_iter == epochs * 7500 and cfg.train.eval_period == 7500
    multiplier = instantiate(cfg.lr_multiplier)
    before, after = (drop - 0.01) / epochs, (drop + 0.01) / epochs
    assert (multiplier(before), multiplier(after)) == (1.0, pytest.approx(0.1))


@pytest.mark.parametrize("name", ["dino_dinov2_b_12ep", "dino_dinov2_b_24ep", "dino_dinov2_b_50ep"])
@pytest.mark.parametrize("epochs", [0.5, 1, 7, 100])
def test_another_number_of_epochs_is_one_override(name, epochs):
    cfg = load(name, [f"schedule.epochs={epochs}"])
    assert cfg.train.max_iter == epochs * 7500
    multiplier = instantiate(cfg.lr_multiplier)
    assert multiplier(0.79) == 1.0 and multiplier(0.93) == pytest.approx(0.1)


def test_image_size_is_one_override_for_detrs_augmentation():
    data = load("dino_dinov2_b_12ep", ["dataloader.image.size=400"]).dataloader
    plain, cropped = data.train.mapper.augmentation, data.train.mapper.augmentation_with_crop
    assert plain[1].short_edge_length == cropped[3].short_edge_length == list(range(240, 401, 16))
    assert {plain[1].max_size, cropped[3].max_size, data.test.mapper.augmentation[0].max_size} == {666}
    assert cropped[1].short_edge_length == [200, 250, 300] and cropped[2].crop_size == [192, 300]
    assert data.test.mapper.augmentation[0].short_edge_length == 400


@pytest.mark.parametrize("name", JITTERED)
def test_image_size_is_one_override_for_large_scale_jitter(name):
    own = recipe(name).cfg.dataloader
    assert own.image.size == {"dino_dinov2_b_518_12ep": 518, "dino_dinov2_b_1024_12ep": 1024}[name]
    for data, size in ((own, own.image.size), (load(name, ["dataloader.image.size=640"]).dataloader, 640)):
        _, resize, crop = data.train.mapper.augmentation
        test = data.test.mapper.augmentation[0]
        assert (resize.target_height, resize.target_width, *crop.crop_size) == (size,) * 4
        assert (resize.min_scale, resize.max_scale, crop.pad) == (0.1, 2.0, False)
        assert (test.short_edge_length, test.max_size) == (size, size)
        assert data.train.mapper.augmentation_with_crop is None


def test_jittered_images_are_scaled_beyond_the_square_and_cropped_to_it(records):
    mapper = instantiate(load("dino_dinov2_b_518_12ep", ["dataloader.image.size=64"]).dataloader.train.mapper)
    np.random.seed(0)
    sizes = torch.tensor([mapper(records[0])["image"].shape[-2:] for _ in range(60)])  # of 90 x 120 pixels
    assert sizes.max() == 64 and sizes.min() < 20
    assert (sizes == 64).all(1).any()  # cropped on both sides: so it was larger


def test_layers_that_the_giant_recipe_shards_one_by_one_exist():
    cfg, model = recipe("dino_dinov2_g_12ep").cfg, recipe("dino_dinov2_g_12ep").model
    assert cfg.train.fsdp.enabled
    for ending in cfg.train.fsdp.modules:
        assert any(f".{name}".endswith(f".{ending}") for name, _ in model.named_modules()), ending


@pytest.mark.parametrize("name", NAMES)
def test_header_gives_launch_command_hardware_and_what_to_expect(name):
    header = (FOLDER / f"{name}.py").read_text().split('"""')[1]
    assert f"python tools/train_net.py --config-file projects/dino_dinov2/configs/COCO/{name}.py --num-gpus" in header
    assert "Hardware it is meant for: " in header
    assert "Not yet trained" in header or "box AP" in header


@pytest.mark.parametrize("name", NAMES)
def test_runs_do_not_write_over_each_other_and_the_evaluator_writes_into_the_run(name):
    cfg = load(name, ["train.output_dir=elsewhere"])
    assert recipe(name).cfg.train.output_dir == f"./output/{name}"
    assert cfg.dataloader.evaluator.output_dir == "elsewhere"
    assert cfg.dataloader.evaluator.dataset_name == cfg.dataloader.test.dataset.names == "coco_2017_val"
