"""A package's config is data: what could run code is refused by its text, before anything is imported or called."""

import sys

import pytest
import yaml
from detectron2.config import LazyConfig
from omegaconf import OmegaConf
from real_recipes import marked, project_of

from dinov2_detrex.config.loading import find_config, load
from dinov2_detrex.config.packaged import is_allowed, read_packaged
from dinov2_detrex.config.recipes import named_recipes
from dinov2_detrex.config.saving import plain, save_config, with_calls_for_values
from dinov2_detrex.runtime.errors import UserError

HARMLESS = {"model": {"_target_": "torch.nn.Linear", "in_features": 2, "out_features": 3}, "names": ["a", None, 0.5]}
MARK = "touched by a hostile config"


def written(folder, text):
    (folder / "config.yaml").write_text(text if isinstance(text, str) else yaml.safe_dump(text))
    return folder / "config.yaml"


def test_plain_values_and_known_targets_are_read_as_they_stand(tmp_path):
    assert OmegaConf.to_container(read_packaged(written(tmp_path, HARMLESS))) == HARMLESS


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "builtins.eval",
        "builtins.exec",
        "subprocess.Popen",
        "functools.partial",
        "importlib.import_module",
        "hostile_package.Layer",
        "torch.load",
        "torch.hub.load",
        "torch.nn.modules.module.torch.os.system",  # through what an allowed package imports
        "torch.nn.functional.torch.os.system",
        "dinov2_detrex.runtime.files.write_text",
        "dinov2_detrex.runtime.files.os.system",
        "detectron2.config.LazyConfig.load",
        "detectron2.utils.registry.locate",
        "dinov2_detrex.config.get_config",
        "dinov2_detrex.detector.DINO.__init__.__globals__",
        "torch.nn.Linear\n",
        " torch.nn.Linear",
        "torch.nn.Lınear.os",
        "",
        7,
        None,
        ["torch.nn.Linear"],
        {"_target_": "functools.partial", "func": "os.system"},
        {"_target_": "torch.nn.Linear"},  # what an allowed call returns would be called
    ],
)
@pytest.mark.parametrize("nest", [lambda call: call, lambda call: {"_target_": "torch.nn.Sequential", "a": [[call]]}])
def test_a_target_that_is_not_on_the_list_is_refused_before_it_is_imported(target, nest, tmp_path, monkeypatch):
    (tmp_path / "hostile_package.py").write_text(f"open({str(tmp_path / 'mark')!r}, 'w').write({MARK!r})")
    monkeypatch.syspath_prepend(str(tmp_path))
    call = {"_target_": target, "command": f"touch {tmp_path / 'mark'}"}
    with pytest.raises(UserError, match="_target_=.* is not among the targets") as caught:
        read_packaged(written(tmp_path, {"model": nest(call)}))
    assert "\n" not in str(caught.value)
    assert "hostile_package" not in sys.modules and not (tmp_path / "mark").exists()


@pytest.mark.parametrize(
    "text, words",
    [
        ("a: ${oc.env:HOME}", "a='\\${oc.env:HOME}' is an interpolation"),
        ("a: [{b: '${oc.decode:x}'}]", "a.0.b=.* is an interpolation"),
        ("a: '${d2d.classes_in:/etc/passwd,1}'", "interpolation"),
        ("'${oc.env:HOME}': 1", "interpolation"),
        ("a: !!python/name:os.system", "could not determine a constructor"),
        ("a: !!python/object/apply:os.system [ls]", "could not determine a constructor"),
        ("a: !!python/object/new:hostile_package.Layer {}", "could not determine a constructor"),
        ("a: 2020-01-01", "a holds a date"),
        ("a: !!binary aGVsbG8=", "a holds a bytes"),
        ("a: &a [1, 2]\nb: [*a, *a]", "anchor"),
        ("a: &a [*a]", "anchor"),
        ("a: {b: 1", "no config of a model package"),
        ("- 1", "holds no sections"),
        ("", "holds no sections"),
    ],
)
def test_what_is_no_plain_value_is_refused(text, words, tmp_path):
    with pytest.raises(UserError, match=words) as caught:
        read_packaged(written(tmp_path, text))
    assert "\n" not in str(caught.value)


def test_a_config_that_lies_in_a_package_is_data_however_it_is_named(tmp_path):
    (tmp_path / "detector.json").write_text("{}")
    written(tmp_path, {"model": {"_target_": "os.system", "command": f"touch {tmp_path / 'mark'}"}})
    for name in (tmp_path, tmp_path / "config.yaml"):
        with pytest.raises(UserError, match="os.system.*not among"):
            load(str(name), [])
    assert not (tmp_path / "mark").exists()


def targets(node):
    if isinstance(node, dict):
        yield from ([node["_target_"]] if "_target_" in node else [])
    for value in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from targets(value)


OWN_CODE = "h_deformable_detr_dinov2"  # its detector is code of detrex's checkout, which a package does not hold
PACKAGED = [path for path in named_recipes().values() if project_of(path) != OWN_CODE]


@pytest.mark.parametrize("recipe", map(marked, PACKAGED), ids=lambda path: path.stem)
def test_what_a_recipe_calls_may_stand_in_a_package(recipe, tmp_path):
    save_config(with_calls_for_values(plain(LazyConfig.load(str(recipe)))), tmp_path / "config.yaml")
    found = list(targets(yaml.safe_load((tmp_path / "config.yaml").read_text())))
    assert len(found) > 20 and [target for target in found if not is_allowed(target)] == []


def test_recipes_are_known_by_name_and_a_misspelt_one_is_answered():
    assert find_config("dino_dinov2_tiny_shapes").name == "dino_dinov2_tiny_shapes.py"
    with pytest.raises(UserError, match="did you mean .*dino_dinov2_tiny_shapes.py"):
        find_config("dino_dinov2_tiny_shape")
