"""The options of `train` and `schedule`: what they do not take is one line that names the key, wherever it is set."""

import ast
import inspect
import json
import math

import pytest
from detectron2.config import LazyConfig
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import DictConfig, OmegaConf

from dinov2_detrex import get_config
from dinov2_detrex.config import schedule_options, train_options
from dinov2_detrex.config.loading import load, load_config
from dinov2_detrex.config.loading import train_options as options_of
from dinov2_detrex.config.overrides import apply_overrides
from dinov2_detrex.config.refusals import SECTIONS
from dinov2_detrex.config.schema import (
    Choice,
    NotEmpty,
    Range,
    declared_options,
    dotted_keys,
    expected,
    is_section,
    option_kinds,
    section_at,
)
from dinov2_detrex.config.train_options import Device, TrainOptions
from dinov2_detrex.runtime.errors import UsageError

RECIPE = "projects/dino_dinov2/configs/shapes/dino_dinov2_tiny_shapes.py"
KEYS = [key for name, section in SECTIONS.items() for key in dotted_keys(section, name)]
TEXTS = st.text("abcxyz_ ", min_size=1, max_size=8).filter(str.strip)
LISTS = st.lists(st.integers(0, 9), max_size=2)
MAPPINGS = st.dictionaries(st.text("abc", min_size=1, max_size=3), st.integers(0, 9), min_size=1, max_size=2)
FRACTIONS = st.floats(-1e6, 1e6).filter(lambda value: value != int(value))


def declared_at(key):
    """The section that holds an option, and the option's dataclass field."""
    root, *path, name = key.split(".")
    section = section_at(SECTIONS[root], path)
    return section, next(field for field in declared_options(section) if field.name == name)


def numbers_outside(allowed: Range | None, whole: bool):
    """Numbers that a range does not hold, NaN among them where fractions may stand."""
    if allowed is None:
        return st.nothing()
    wide = st.integers(-(2**70), 2**70) if whole else st.floats(allow_nan=True, allow_infinity=True)
    near = [allowed.low, allowed.high, allowed.low - 1, allowed.high + 1]
    near = st.sampled_from([value for value in near if math.isfinite(value)])
    return (wide | near.map(int if whole else float)).filter(lambda value: value not in allowed)


def refused_values(key):
    """Values from the complement of what an option takes."""
    section, field = declared_at(key)
    kinds, optional = option_kinds(section, field.name)
    kind, allowed = kinds[0], field.metadata.get("allowed")
    never = st.nothing() if optional else st.none()
    if is_section(kind):
        return st.booleans() | st.integers() | TEXTS | LISTS | st.none()
    if kind is bool:
        return TEXTS.filter(lambda text: text not in ("y", "n", "yes", "no", "on", "off")) | FRACTIONS | LISTS | never
    if kind in (int, float):
        whole = float not in kinds
        wrong = TEXTS | st.booleans() | LISTS | MAPPINGS | never | numbers_outside(allowed, whole)
        return wrong | FRACTIONS if whole else wrong
    if kind is str:
        blank = st.sampled_from(["", " "]) if isinstance(allowed, NotEmpty) else st.nothing()
        return LISTS | MAPPINGS | blank | never
    if isinstance(kind, type) and issubclass(kind, Choice):
        return TEXTS.filter(lambda text: text not in list(kind)) | st.integers() | FRACTIONS | LISTS | never
    if kind == list[str]:
        return TEXTS | st.integers() | MAPPINGS | st.lists(LISTS, min_size=1, max_size=2) | never
    if kind == list[int]:
        below = allowed.allowed.low
        wrong = LISTS | TEXTS | st.booleans() | FRACTIONS | st.integers(max_value=int(below) - 1)
        return TEXTS | st.integers() | MAPPINGS | st.lists(wrong, min_size=1, max_size=2) | never
    return TEXTS | st.integers() | LISTS | never  # keywords


def as_override(value) -> str:
    """A value in Hydra's grammar."""
    if isinstance(value, float):
        return repr(value)  # nan and inf are spelt so there too
    if isinstance(value, dict):
        return "{" + ",".join(f"{name}:{as_override(inner)}" for name, inner in value.items()) + "}"
    return json.dumps(value).replace(" ", "") if not isinstance(value, str) else json.dumps(value)


def typed_config():
    cfg = DictConfig({name: OmegaConf.structured(section) for name, section in SECTIONS.items()})
    cfg.model = {"width": 8}
    return cfg


@st.composite
def key_and_refused_value(draw):
    key = draw(st.sampled_from(KEYS))
    return key, draw(refused_values(key))


def assert_one_line_about(error, key):
    message = str(error.value)
    assert "\n" not in message and f"{key}" in message and len(message) > len(key) + 10, message


@given(key_and_refused_value())
def test_an_override_that_an_option_does_not_take_is_one_line_with_its_key(case):
    key, value = case
    cfg = typed_config()
    with pytest.raises(UsageError) as caught:
        apply_overrides(cfg, [f"{key}={as_override(value)}"])
        options_of(cfg)
    assert_one_line_about(caught, key)


@given(key_and_refused_value())
def test_a_plain_section_that_holds_what_an_option_does_not_take_is_one_line_with_its_key(case):
    key, value = case
    name, *path = key.split(".")
    for part in reversed(path):
        value = {part: value}
    plain = {"train": {}, "schedule": {"images_per_epoch": 1}}
    plain[name] = plain[name] | value if path else value
    with pytest.raises(UsageError) as caught:
        options_of(OmegaConf.create(plain))
    assert_one_line_about(caught, key)


@pytest.mark.parametrize("key", KEYS)
def test_a_key_with_a_letter_too_many_is_answered_with_the_key(key):
    cfg = typed_config()
    for override in (f"{key}x=1", f"+{key}x=1"):
        with pytest.raises(UsageError, match=rf"^unknown key '{key}x'; did you mean .*{key}") as caught:
            apply_overrides(cfg, [override])
        assert "add a new key" not in str(caught.value)


def test_an_unlike_key_is_answered_with_the_keys_that_there_are():
    with pytest.raises(UsageError, match="'train.amp.zzz'; the keys there are enabled, dtype"):
        apply_overrides(typed_config(), ["train.amp.zzz=1"])


@pytest.mark.parametrize("key", ["train", "schedule", "train.amp", "train.amp.dtype"])
def test_an_option_cannot_be_removed(key):
    with pytest.raises(UsageError, match=f"{key} cannot be removed"):
        apply_overrides(typed_config(), [f"~{key}"])


@pytest.mark.parametrize(
    "override, line",
    [
        ("train.max_iter=-1", "train.max_iter=-1 must be a whole number of at least 1"),
        ("train.max_iter=1.5", "train.max_iter=1.5 must be a whole number of at least 1"),
        ("train.max_iter=null", "train.max_iter=null must be a whole number of at least 1"),
        ("train.amp.enabled=no_thanks", "train.amp.enabled='no_thanks' must be true or false"),
        ("train.amp=true", "train.amp=true must be a section with the keys enabled, dtype"),
        ("train.model_ema.decay=1", "train.model_ema.decay=1.0 must be a number between 0 and 1"),
        ("train.clip_grad.params.max_norm=0", "train.clip_grad.params.max_norm=0.0 must be a number above 0"),
        ("train.seed=9223372036854775808", "from -1 to 9223372036854775807, or null"),
        ("train.output_dir=''", "train.output_dir='' must be text that is not empty"),
        ("train.best_checkpoint.mode=best", "train.best_checkpoint.mode='best' must be 'max' or 'min'"),
        ("train.device=gpu", "train.device='gpu' must be '', 'cpu', 'cuda', 'mps' or 'xpu'"),
        ("schedule.epochs=0", "schedule.epochs=0 must be a number above 0"),
        ("train.max_iter=${train.output_dir}", "train.max_iter must be a whole number of at least 1"),
        ("~model", "no model"),
        ("model=null", "model=null must be a section"),
    ],
)
def test_the_line_says_what_is_allowed(override, line):
    with pytest.raises(UsageError) as caught:
        load(RECIPE, [override])
    assert line in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "override, key, value",
    [
        ("train.device=cuda:1", "train.device", "cuda:1"),
        ("train.amp.dtype=torch.float16", "train.amp.dtype", "float16"),
        ("train.amp.dtype=fp16", "train.amp.dtype", "float16"),
        ("train.seed=null", "train.seed", None),
        ("train.clip_grad.params.norm_type=inf", "train.clip_grad.params.norm_type", math.inf),
        ("train.eval_period=-1", "train.eval_period", -1),
        ("train.checkpointer.max_to_keep=null", "train.checkpointer.max_to_keep", None),
        ("train.max_iter=${train.log_period}", "train.max_iter", 20),
        ("+train.wandb.params.entity=me", "train.wandb.params.entity", "me"),
        ("schedule.epochs=0.5", "schedule.epochs", 0.5),
    ],
)
def test_what_an_option_takes_arrives(override, key, value):
    cfg = apply_overrides(typed_config(), [override])
    options_of(cfg)
    assert OmegaConf.select(cfg, key) == value


@pytest.mark.parametrize(
    "line, words",
    [
        ("train.accumulate.stps = 2", "unknown key 'train.accumulate.stps'; did you mean train.accumulate.steps?"),
        ("train.max_iter = 1.5", "train.max_iter=1.5 must be a whole number of at least 1"),
        ("train.best_checkpoint.mode = 'best'", "train.best_checkpoint.mode='best' must be 'max' or 'min'"),
        ("train.amp = True", "train.amp=true must be a section"),
    ],
)
def test_a_mistake_in_a_recipe_is_refused_at_its_own_line(tmp_path, line, words):
    recipe = tmp_path / "recipe.py"
    recipe.write_text(f"from dinov2_detrex import get_config\n\ntrain = get_config('common/train.py').train\n{line}\n")
    with pytest.raises(UsageError) as caught:
        load_config(recipe)
    assert f"{recipe}:4: {words}" in str(caught.value) and "\n" not in str(caught.value)


def test_a_mistake_in_a_file_that_a_recipe_imports_is_refused_at_the_line_there(tmp_path):
    base = "from dinov2_detrex import get_config\nget_config('common/train.py').train.x = 1\n"
    (tmp_path / "base.py").write_text(base)
    (tmp_path / "recipe.py").write_text("from .base import train\n")
    with pytest.raises(UsageError, match=r"base.py:2: unknown key 'train.x'"):
        load_config(tmp_path / "recipe.py")


@pytest.fixture
def written(tmp_path):
    """Write a config.yaml with the given sections and the others that a run needs: written(train={...}) -> path."""

    def write(**sections):
        others = {name: {"x": 1} for name in ("model", "dataloader", "optimizer", "lr_multiplier", "train")}
        LazyConfig.save(OmegaConf.create(others | sections), str(tmp_path / "config.yaml"))
        return tmp_path / "config.yaml"

    return write


@pytest.mark.parametrize(
    "sections, words",
    [
        ({"train": {"max_itr": 5}}, "unknown key 'train.max_itr'; did you mean train.max_iter?"),
        ({"train": {"amp": {"enabled": "no_thanks"}}}, "train.amp.enabled='no_thanks' must be true or false"),
        ({"train": {"amp": [1]}}, "train.amp=[1] must be a section with the keys enabled, dtype"),
        ({"train": 5}, "train=5 must be a section"),
        (
            {"train": {}, "schedule": {"images_per_epoch": 1, "epoch": 2}},
            "'schedule.epoch'; did you mean schedule.epoch",
        ),
    ],
)
def test_a_mistake_in_yaml_is_one_line_with_the_file_and_the_key(written, sections, words):
    path = written(**sections)
    with pytest.raises(UsageError) as caught:
        load_config(path)
    message = str(caught.value)
    assert str(path) in message and words in message and "\n" not in message, message


def test_a_train_section_of_detrex_is_completed_and_what_only_detrex_has_is_dropped(written, caplog):
    detrex = {"max_iter": 7, "amp": {"enabled": True}, "device": "cuda", "lr_backbone_names": ["backbone"]}
    cfg = load_config(written(train=detrex))
    assert (cfg.train.max_iter, cfg.train.amp.enabled, cfg.train.amp.dtype, cfg.train.device) == (7, True, None, "cuda")
    assert cfg.train.accumulate.steps == 1 and "train.lr_backbone_names is not used" in caplog.text


def test_a_schedule_that_is_not_this_projects_stays_as_it_is(written):
    cfg = load_config(written(train={}, schedule={"name": "cosine", "epochs": -1}))
    assert cfg.schedule == {"name": "cosine", "epochs": -1} and options_of(cfg).max_iter == 90000


def test_the_values_of_a_config_are_plain_python(tmp_path):
    options = options_of(load(RECIPE, ["train.device=cuda:1"]))
    assert options.max_iter == 1500 and type(options.fsdp.modules) is list and options.device.value == "cuda:1"
    assert options == options_of(OmegaConf.create({"train": OmegaConf.structured(options)}))


def test_a_recipe_may_derive_options_of_its_own(tmp_path):
    path = tmp_path / "recipe.py"
    path.write_text(
        "from dataclasses import dataclass\n"
        "from omegaconf import OmegaConf\n"
        "from dinov2_detrex.config.train_options import TrainOptions\n"
        "@dataclass\n"
        "class Mine(TrainOptions):\n"
        "    note: str = 'mine'\n"
        "train = OmegaConf.structured(Mine)\n"
        "model = dataloader = optimizer = lr_multiplier = dict()\n"
    )
    cfg = apply_overrides(load_config(path), ["train.note=yours", "train.max_iter=3"])
    assert options_of(cfg).note == "yours" and options_of(cfg).max_iter == 3


def test_configs_start_from_the_declared_defaults():
    assert get_config("common/train.py").train == OmegaConf.structured(TrainOptions)


def test_one_of_several_gpus_is_a_device_and_survives_a_copy():
    assert Device("cuda:1") == "cuda:1" and Device("cuda:1").partition(":")[0] == Device.cuda
    for wrong in ("cuda:", "cuda:x", "cpu:1", "cuda:-1", "meta"):
        with pytest.raises(ValueError):
            Device(wrong)


@pytest.mark.parametrize("module", [train_options, schedule_options])
def test_every_option_is_documented(module):
    classes = [node for node in ast.parse(inspect.getsource(module)).body if isinstance(node, ast.ClassDef)]
    assert all(ast.get_docstring(node) for node in classes)
    for node in classes:
        for declared, text in zip(node.body, [*node.body[1:], None]):
            documented = isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant)
            assert documented or not isinstance(declared, ast.AnnAssign), f"{node.name}, line {declared.lineno}"


@pytest.mark.parametrize("key", KEYS)
def test_what_an_option_takes_can_be_said_in_words(key):
    section, field = declared_at(key)
    assert len(expected(section, field.name)) > 3
