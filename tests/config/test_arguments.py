"""The sections that describe calls: numbers that no callable can mean are one line that names the key."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from real_recipes import marked

from dinov2_detrex.config import recipes_dir
from dinov2_detrex.config.arguments import (
    ARGUMENTS,
    CALLS,
    MAX_WORKERS,
    OPTIONAL_CALLS,
    Called,
    Flag,
    Folder,
    Number,
    Numbers,
    OneOf,
    OnlyTrue,
    Records,
    check_arguments,
)
from dinov2_detrex.config.loading import load
from dinov2_detrex.runtime.errors import UsageError

RECIPE = "projects/dino_dinov2/configs/shapes/dino_dinov2_tiny_shapes.py"
ALL_RECIPES = sorted((recipes_dir() / "projects").rglob("configs/*/*.py"))
KEYS = [(section, name) for section, arguments in ARGUMENTS.items() for name in arguments]
TEXTS = st.text("abcxyz0. ", max_size=6)
NOT_FINITE = st.sampled_from([math.nan, math.inf, -math.inf])


def refused_numbers(number):
    """Values from the complement of what a number may be."""
    low, high = number.allowed.low, number.allowed.high
    below = st.integers(max_value=int(low) - 1) | st.floats(max_value=low, exclude_max=True, allow_infinity=False)
    above = st.nothing()
    if high < math.inf:
        above = st.integers(min_value=math.floor(high) + 1) | st.floats(min_value=math.nextafter(high, math.inf))
    fractions = st.floats(0.1, 1e6).filter(lambda value: value != int(value)) if number.whole else st.nothing()
    never = st.nothing() if number.optional else st.none()
    return below | above | fractions | NOT_FINITE | st.booleans() | TEXTS | st.lists(st.integers(), max_size=2) | never


def refused_values(argument):
    """Values from the complement of what an argument takes."""
    if isinstance(argument, Number):
        return refused_numbers(argument)
    if isinstance(argument, Numbers):
        lists = st.lists(refused_numbers(argument.each), min_size=1, max_size=2)
        disorder = st.just([3, 2]) if argument.ascending else st.nothing()
        return lists | disorder | st.integers() | TEXTS | st.booleans() | st.none()
    if isinstance(argument, Flag):
        return st.integers() | st.floats() | TEXTS | st.none() | st.lists(st.booleans(), max_size=2)
    if isinstance(argument, OneOf):
        never = st.nothing() if argument.optional else st.none()
        return TEXTS.filter(lambda text: text not in argument.texts) | st.integers() | st.booleans() | never
    if isinstance(argument, OnlyTrue):
        return st.just(False) | st.none() | TEXTS | st.integers()
    if isinstance(argument, Folder):
        return st.integers() | st.booleans() | st.lists(st.integers(), max_size=2) | st.just("a\0b")
    if isinstance(argument, Records):
        return st.integers() | st.floats() | TEXTS | st.booleans() | st.none() | st.just({"a": 1})
    assert isinstance(argument, Called)
    return st.integers() | TEXTS | st.booleans() | st.lists(st.integers(), max_size=2) | st.just({"a": 1})


def complete():
    """A config with all its calls, and nothing in them."""
    cfg = OmegaConf.create({})
    inner = [f"dataloader.{part}.{name}" for part in ("train", "test") for name in ("dataset", "mapper")]
    for key in (*CALLS, *OPTIONAL_CALLS, *inner):
        OmegaConf.update(cfg, f"{key}._target_", "a.b", force_add=True)
    return cfg


@st.composite
def key_and_refused_value(draw):
    section, name = draw(st.sampled_from(KEYS))
    return f"{section}.{name}", draw(refused_values(ARGUMENTS[section][name]))


@settings(max_examples=300)
@given(key_and_refused_value())
def test_a_value_from_outside_of_what_an_argument_takes_is_one_line_with_its_key(case):
    key, value = case
    cfg = complete()
    OmegaConf.update(cfg, key, value, force_add=True, merge=False)
    with pytest.raises(UsageError) as caught:
        check_arguments(cfg)
    message = str(caught.value)
    assert message.startswith(f"{key}=") and " must be " in message and "\n" not in message


@given(st.sampled_from([*CALLS, *OPTIONAL_CALLS]), st.integers() | TEXTS | st.booleans() | st.just({}) | st.just([1]))
def test_what_is_no_call_is_one_line_with_its_key(key, value):
    cfg = complete()
    OmegaConf.update(cfg, key, value, force_add=True, merge=False)
    with pytest.raises(UsageError, match=key):
        check_arguments(cfg)


@given(st.sampled_from(["model.a.b", "optimizer.any", "dataloader.image.size", "lr_multiplier.x"]))
def test_a_number_that_is_none_is_found_wherever_it_stands(key):
    cfg = complete()
    OmegaConf.update(cfg, key, {"deep": [1.0, math.nan]}, force_add=True)
    with pytest.raises(UsageError, match=rf"{key}.deep.1=nan"):
        check_arguments(cfg)


@pytest.mark.parametrize("recipe", map(marked, ALL_RECIPES), ids=lambda path: path.stem)
def test_every_recipe_passes(recipe):
    if "models" not in recipe.parts:
        load(str(recipe), [])


@pytest.mark.parametrize(
    "override, line",
    [
        ("dataloader.train.total_batch_size=-4", "=-4 must be a whole number from 1 to 65536, or null"),
        ("dataloader.train.total_batch_size=100000000000", "must be a whole number from 1 to 65536"),
        ("dataloader.train.num_workers=1.5", f"=1.5 must be a whole number from 0 to {MAX_WORKERS}"),
        ("dataloader.test.num_workers=true", f"=true must be a whole number from 0 to {MAX_WORKERS}"),
        ("dataloader.test.batch_size=0", "=0 must be a whole number from 1 to 65536"),
        ("dataloader.train.mapper=7", "dataloader.train.mapper=7 must be a section with a _target_, or null"),
        ("dataloader.train.mapper.is_train=false", "dataloader.train.mapper.is_train=false must be true: otherwise"),
        ("dataloader.train.mapper.is_train=null", "dataloader.train.mapper.is_train=null must be true: otherwise"),
        ("dataloader.train.mapper.img_format=XYZ", "mapper.img_format='XYZ' must be 'RGB' or 'BGR' or 'L'"),
        ("dataloader.train.dataset=null", "dataloader.train.dataset=null must be a section with a _target_"),
        ("dataloader.evaluator.output_dir=7", "dataloader.evaluator.output_dir=7 must be the path of a folder"),
        ("~dataloader.train", "dataloader.train=null must be a section that names a callable"),
        ("~optimizer._target_", "optimizer._target_=null must be a callable or its dotted name"),
        ("optimizer.lr=-1", "optimizer.lr=-1 must be a finite number of at least 0"),
        ("optimizer.lr=inf", "optimizer.lr=inf must be a finite number of at least 0"),
        ("optimizer.betas=[1.5,0.9]", "optimizer.betas=[1.5, 0.9] must be a list"),
        ("lr_multiplier.warmup_length=2", "lr_multiplier.warmup_length=2 must be a finite number from 0 to 1"),
        ("train.ddp.find_unused_parameters=5", "train.ddp.find_unused_parameters=5 must be true or false"),
        ("train.max_iter=99999999999999999999", "train.max_iter=99999999999999999999 must be a whole number"),
    ],
)
def test_on_the_command_line_too_the_line_says_what_is_allowed(override, line):
    with pytest.raises(UsageError) as caught:
        load(RECIPE, [override])
    assert line in str(caught.value) and "\n" not in str(caught.value)
