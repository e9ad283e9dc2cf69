"""Overrides: what Hydra's grammar allows is applied, what nobody can have meant is refused with a hint."""

import re

import pytest
import torch
from detectron2.config import LazyCall as L
from hypothesis import assume, example, given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from dinov2_detrex.config.overrides import apply_overrides, known_keys
from dinov2_detrex.runtime.errors import UsageError, nearest_names


def takes_anything(size, **options):
    return size, options


@pytest.fixture
def cfg():
    return OmegaConf.create(
        {
            "train": {"max_iter": 10, "amp": {"enabled": False}, "steps": [1, 2, 3], "alias": "${.max_iter}"},
            "model": L(torch.nn.Conv2d)(in_channels=3, out_channels="${..width}", kernel_size=1),
            "open": L(takes_anything)(size=1),
            "width": 8,
            "needed": "???",
        },
        flags={"allow_objects": True},
    )


@pytest.mark.parametrize(
    "override, key, value",
    [
        ("train.max_iter=5", "train.max_iter", 5),
        ("train.amp.enabled=true", "train.amp.enabled", True),
        ("train.max_iter=1e-4", "train.max_iter", 1e-4),
        ("train.max_iter=null", "train.max_iter", None),
        ("needed='5'", "needed", "5"),
        ("needed=", "needed", ""),
        ("needed=detectron2://x/y.pkl", "needed", "detectron2://x/y.pkl"),
        ("train.steps=[4,5]", "train.steps", [4, 5]),
        ("train.steps.1=9", "train.steps.1", 9),
        ("train.amp={enabled:true}", "train.amp", {"enabled": True}),
        ("train.max_iter=${width}", "train.max_iter", 8),
        ("model.bias=false", "model.bias", False),  # a parameter of Conv2d that the config leaves out
        ("open.anything=1", "open.anything", 1),  # the callable takes **options
        ("+train.note=mine", "train.note", "mine"),
        ("++train.new.deep=1", "train.new.deep", 1),
        ("needed=3", "needed", 3),
        ("train.alias=4", "train.alias", 4),
        ("model._target_=torch.nn.Conv1d", "model._target_", "torch.nn.Conv1d"),
    ],
)
def test_an_override_of_hydras_grammar_is_applied(cfg, override, key, value):
    apply_overrides(cfg, [override])
    assert OmegaConf.select(cfg, key) == value


def test_a_dictionary_with_another_callable_keeps_the_arguments_that_it_takes(cfg):
    cfg.model.kernel_size = 3
    apply_overrides(cfg, ["model={_target_: torch.nn.Linear, in_features: 4, out_features: '${width}'}"])
    assert dict(cfg.model) == {"_target_": "torch.nn.Linear", "in_features": 4, "out_features": 8}
    cfg.model.bias = False
    apply_overrides(cfg, ["model={_target_: torch.nn.Bilinear, in1_features: 1, in2_features: 2}"])
    assert cfg.model.bias is False and cfg.model.out_features == 8 and "in_features" not in cfg.model


def test_the_callable_of_a_section_inside_a_dictionary_changes_too(cfg):
    apply_overrides(cfg, ["+train.part={a: {_target_: torch.nn.ReLU, inplace: true}}"])
    apply_overrides(cfg, ["train.part={a: {_target_: torch.nn.ELU, alpha: 2.0}}"])
    assert cfg.train.part.a == {"_target_": "torch.nn.ELU", "inplace": True, "alpha": 2.0}
    with pytest.raises(UsageError, match="alpah"):
        apply_overrides(cfg, ["train.part={a: {_target_: torch.nn.ELU, alpah: 2.0}}"])


@given(middle=st.text(st.characters(exclude_characters="$,", exclude_categories=["C", "Z"]) | st.just(" ")))
@example(middle="photographs#train")
@example(middle="René's photographs (1)")
@example(middle='C:\\"x"\\')
def test_a_path_needs_no_quotes_for_hydras_sake(middle):
    assume(not re.search(r"\s[\w.]+=", middle))
    cfg = apply_overrides(OmegaConf.create({"data": {"path": None}}), [f"data.path=./{middle}/images"])
    assert cfg.data.path == f"./{middle}/images"


def test_a_key_is_deleted_with_a_tilde(cfg):
    apply_overrides(cfg, ["~train.max_iter", "~model.kernel_size", "~width"])
    assert "max_iter" not in cfg.train and "kernel_size" not in cfg.model and "width" not in cfg


def test_later_overrides_see_what_earlier_ones_added_and_win(cfg):
    apply_overrides(cfg, ["+train.note={a:1}", "train.note.a=2", "train.note.a=3", "width=16"])
    assert cfg.train.note.a == 3 and cfg.model.out_channels == 16


@pytest.mark.parametrize(
    "override, words",
    [
        ("train.max_itr=5", ["'train.max_itr'", "train.max_iter", "+train.max_itr=5"]),
        ("max_iter=5", ["'max_iter'", "train.max_iter"]),
        ("trian.max_iter=5", ["'trian'", "train"]),
        ("model.padd=1", ["'model.padd'", "+model.padd=1"]),
        ("train={max_itr:5}", ["'train.max_itr'", "train.max_iter"]),
        ("train.max_iter.deeper=5", ["'train.max_iter'", "plain value"]),
        ("train.steps.7=1", ["train.steps.7"]),
        ("train.max_iter=abc", ["train.max_iter", "number (10)", "'abc'"]),
        ("train.alias='5'", ["train.alias", "number (10)", "'5'"]),
        ("train={max_iter:abc}", ["train.max_iter", "'abc'"]),
        ("train.max_iter", ["'train.max_iter'", "key=value"]),
        ("train.max_iter = 3", ["key=value"]),
        ("train.steps=(1,2)", ["key=[1,2]"]),
        ("train.max_iter=1,2", ["sweep", "[1,2]"]),
        ("train.max_iter=choice(1,2)", ["sweep"]),
        ("train.max_iter=range(1,3)", ["sweep"]),
        ("~train.max_itr", ["'train.max_itr'", "train.max_iter"]),
        ("--resum", ["--resum", "--help"]),
        ("", ["key=value"]),
    ],
)
def test_a_wrong_override_is_one_line_that_names_it_and_says_what_to_do(cfg, override, words):
    with pytest.raises(UsageError) as caught:
        apply_overrides(cfg, [override])
    message = str(caught.value)
    assert "\n" not in message and all(word in message for word in words), message


def test_a_refused_override_leaves_the_config_as_it_was(cfg):
    before = OmegaConf.to_container(cfg, resolve=False)
    with pytest.raises(UsageError):
        apply_overrides(cfg, ["train.max_itr=5"])
    assert OmegaConf.to_container(cfg, resolve=False) == before


@given(st.data())
def test_a_key_with_one_letter_left_out_is_answered_with_the_key(data):
    known = ["train.max_iter", "train.amp.enabled", "model.num_queries", "optimizer.lr_decay", "dataloader.workers"]
    key = data.draw(st.sampled_from(known))
    at = data.draw(st.integers(key.rindex(".") + 1, len(key) - 1))
    assert nearest_names(key[:at] + key[at + 1 :], known)[0] == key


def test_known_keys_are_the_dotted_names_of_all_sections_and_values(cfg):
    keys = known_keys(cfg)
    assert {"train", "train.amp.enabled", "train.steps.2", "train.alias", "model._target_", "needed"} <= set(keys)
